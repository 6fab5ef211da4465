"""The scaling test on small programs whose difference is known: rounding, a cast, a defect, and several at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from whydiff.capturing.adapters import for_framework
from whydiff.explain.case import Case
from whydiff.explain.scaling import Scaling, float64_throughout, measure_scaling
from whydiff.locate.localize import localize
from whydiff.pair.align import align
from whydiff.pair.in_common import InCommon
from whydiff.pipeline import compare
from whydiff.records import Slot, Verdict

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 32, generator=GENERATOR)
WEIGHT = torch.randn(32, 32, generator=GENERATOR) / 6


def case_of(reference: Callable[..., Any], candidate: Callable[..., Any], *inputs: torch.Tensor) -> Case:
    adapter = for_framework("torch")
    traces = [adapter.run(side, inputs, {}).capture(level="op") for side in (reference, candidate)]
    alignment = align(*traces)
    return Case(traces[0], traces[1], alignment, localize(*traces, alignment, None)[0], (None, None))


def scaled(reference: Callable[..., Any], candidate: Callable[..., Any], *inputs: torch.Tensor) -> Scaling:
    return measure_scaling(case_of(reference, candidate, *(inputs or (X,))))


def natures(scaling: Scaling) -> dict[str, str | None]:
    program = scaling.program
    return {
        name: None if scale is None else scale.nature
        for name, scale in (("lifted", program.lifted), ("kept", program.kept), ("restored", program.restored))
    }


def product(x: torch.Tensor) -> torch.Tensor:
    return x @ WEIGHT


def in_halves(x: torch.Tensor) -> torch.Tensor:
    return x[:, :16] @ WEIGHT[:16] + x[:, 16:] @ WEIGHT[16:]


def test_another_order_is_rounding_with_and_without_casts() -> None:
    assert natures(scaled(product, in_halves)) == {"lifted": "rounding", "kept": "rounding", "restored": None}


def test_a_cast_stays_where_casts_are_kept_and_vanishes_where_they_are_lifted() -> None:
    found = natures(scaled(product, lambda x: (x.bfloat16() @ WEIGHT.bfloat16()).float()))
    assert (found["lifted"] in ("equal", "rounding"), found["kept"]) == (True, "stays")


def test_choices_are_asked_again_in_float64_instead_of_being_kept() -> None:
    x = torch.tensor([1e8, -1e8, 1.0, 0.5])  # the sum of the first three is 1, and 0 in float32 from the right

    def first(total: torch.Tensor) -> torch.Tensor:
        return torch.stack([total, x[3]]).argmax()

    by_rounding = scaled(lambda x: first(x[0] + x[1] + x[2]), lambda x: first(x[0] + (x[1] + x[2])), x)
    assert natures(by_rounding) == {"lifted": "rounding", "kept": None, "restored": None}
    assert natures(scaled(lambda x: x.argmax(), lambda x: x.argmin(), x))["lifted"] == "stays"
    assert natures(scaled(lambda x: (x * 2, x.argmax()), lambda x: (x * 2, x.argmin()), x))["lifted"] == "stays"
    assert natures(scaled(lambda x: x > 0, lambda x: x > 0.7, x))["lifted"] == "stays"


def test_a_defect_stays_and_its_restored_state_takes_it_away() -> None:
    torch.manual_seed(0)
    one, other = torch.nn.Linear(32, 8), torch.nn.Linear(32, 8)
    assert natures(scaled(one, other)) == {"lifted": "stays", "kept": None, "restored": "equal"}
    assert natures(scaled(product, lambda x: product(x) * 1.01))["restored"] is None


def test_an_empty_output_is_passed_over() -> None:
    x = torch.randn(4, 8)
    d = compare(lambda: (x * 2, (x * 2)[:, 8:], (x * 2)[4:]), lambda: (x * 3, (x * 3)[:, 8:], (x * 3)[4:]))
    assert d.verdict is Verdict.SEMANTIC
    assert not [count for count in d.not_compared if count.what == "the scaling test"]


def test_every_origin_is_scaled_alone() -> None:
    """A hundredth is added, and what follows rounds otherwise. It is judged with the hundredth taken back."""

    def run(order: Callable[[torch.Tensor], torch.Tensor], more: float) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: torch.tanh(order(x.mul(1 + more)))

    case = case_of(run(product, 0.0), run(in_halves, 0.01), X)
    found = measure_scaling(case)
    assert natures(found)["lifted"] == "stays"
    by_op = {
        origin.site.op: modes.lifted.nature
        for origin, modes in zip(case.localization.origins, found.origins, strict=True)
        if modes.lifted is not None
    }
    assert by_op == {"mm": "rounding", "mul": "stays"}


def test_a_region_is_judged_at_the_outputs_with_the_others_substituted() -> None:
    """The region's value means something else on either side and comes to the same; the defect behind it stays."""

    def halved(x: torch.Tensor) -> torch.Tensor:
        return torch.sin((x / 2 + 1 - 1) * 2) * 1.01

    case = case_of(lambda x: torch.sin(x) * 1.0, halved, X)
    found = measure_scaling(case)
    kinds = [origin.kind for origin in case.localization.origins]
    assert natures(found)["lifted"] == "stays"
    assert all(kinds[i] in ("region", "layout") for i in found.together)


def test_the_profile_is_the_error_at_each_position_without_rounding() -> None:
    step = torch.arange(6.0)[:, None]
    found = scaled(lambda x: x * 1.0 + 0 * step, lambda x: x * 1.0 + 0.5 * step, torch.zeros(6, 4))
    (profile,) = found.profiles.values()
    assert list(profile) == pytest.approx([0.5 * n for n in range(6)])
    assert list(found.profiles) == [Slot(0, "output")]


def test_a_trace_that_cannot_be_lifted_says_why_and_which() -> None:
    case = case_of(product, in_halves, X)
    lost = replace(case.candidate, note="", level="module")
    found = measure_scaling(replace(case, candidate=lost))
    assert found.why_not.startswith("the candidate cannot run at another precision: ")
    assert len(found.origins) == len(case.localization.origins)


def test_one_program_that_cancels_is_told_from_the_other() -> None:
    x = 1e3 + torch.randn(64, 512, generator=GENERATOR)
    found = scaled(lambda x: x.var(-1, correction=0), lambda x: (x * x).mean(-1) - x.mean(-1) ** 2, x)
    assert found.cancelled is not None and found.cancelled.worse == 1
    assert scaled(product, in_halves).cancelled is None


def test_float64_throughout_is_of_both() -> None:
    single, double = (
        case_of(lambda x: x * 2, lambda x: x + x, X.to(dtype)) for dtype in (torch.float32, torch.float64)
    )
    assert not float64_throughout(single.reference, double.reference)
    assert not float64_throughout(double.reference, single.reference)
    assert float64_throughout(double.reference, double.candidate)


def test_between_origins_both_programs_are_carried_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(narrow: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                x = product(x.bfloat16().float() if narrow else x)
                x = x.tanh().exp().sin() + 1
            return x

        return run

    steps: list[Any] = []

    class Noted(InCommon):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            steps.append(self)

    case = case_of(program(False), program(True), X)
    found = measure_scaling(case)
    monkeypatch.setattr("whydiff.explain.scaling.InCommon", Noted)
    assert measure_scaling(replace(case, _shared={})) == found and found.alone and len(found.origins) == 3
    assert len(steps) == 4  # both precisions, casts lifted and kept
    for step in steps:  # until the last origin: behind it nothing is looked at
        assert (step.executed, step.taken) == ({"reference": 11, "candidate": 6}, 11)
