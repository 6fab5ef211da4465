"""Settings, mode, inputs and runs that do not repeat themselves."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.explain.causes.md001 import smallest
from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict


def shown(diagnosis: Diagnosis) -> list[tuple[str, str, str, bool]]:
    return sorted((cause.code, cause.site, cause.status, cause.inert) for cause in diagnosis.causes)


def norms(eps: float = 1e-5, approximate: str = "none") -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 8),
        torch.nn.LayerNorm(8, eps=eps),
        torch.nn.GELU(approximate),
        torch.nn.Dropout(0.1),
        torch.nn.LayerNorm(8, eps=eps),
    ).eval()


X = torch.linspace(-1, 1, 32).reshape(4, 8)


class Held(torch.nn.Module):
    """A module that calls a function it holds."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def test_a_function_that_a_module_holds_is_not_set_back_by_its_name() -> None:
    found = compare(Held(torch.nn.functional.gelu), Held(torch.nn.functional.silu), X)
    (cause,) = (one for one in found.causes if one.code == "ST006")
    assert cause.status == "inconclusive" and not cause.interventions and "only its text" in cause.reason
    assert cause.remedy is not None and "<function gelu>" in cause.remedy.text and not cause.remedy.code
    assert shown(found)[0][:3:2] == ("FO001", "confirmed")


def test_one_setting_in_many_modules_is_one_cause() -> None:
    (cause,) = compare(norms(), norms(1e-3), X).causes
    assert (cause.code, cause.status) == ("ST006", "confirmed")
    assert [i.target for i in cause.interventions] == ["1.eps", "4.eps"]
    assert cause.evidence[0].data["paths"] == ["1.eps", "4.eps"]


def test_two_settings_are_two_causes_and_both_are_confirmed() -> None:
    diagnosis = compare(norms(), norms(1e-3, "tanh"), X)
    assert [(c.code, c.status) for c in diagnosis.causes] == [("ST006", "confirmed")] * 2


def test_a_dropout_rate_in_evaluation_mode_is_inert() -> None:
    candidate = norms()
    candidate[3].p = 0.9
    diagnosis = compare(norms(), candidate, X)
    assert diagnosis.verdict is Verdict.IDENTICAL
    assert shown(diagnosis) == [("ST006", "3.p", "refuted", True)]


@pytest.mark.parametrize("given", [([3, 5], [4, 5]), ([[3], 5], [[4], 5])])
def test_a_setting_that_is_a_list_is_proven_both_ways(given: tuple[list[Any], list[Any]]) -> None:
    class Sized(torch.nn.Module):
        def __init__(self, sizes: list[Any]) -> None:
            super().__init__()
            self.sizes = sizes

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.sizes[0]
            return (x * (first[0] if isinstance(first, (list, tuple)) else first)).sum(1)

    diagnosis = compare(*map(Sized, given), X)
    assert [(c.code, c.status) for c in diagnosis.causes] == [("ST006", "confirmed")]


@pytest.mark.parametrize("dims", [(1, 2), ([0, 1], [0, 2])])
def test_an_argument_that_is_a_list_is_proven_both_ways(dims: tuple[Any, Any]) -> None:
    x = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0))
    (cause,) = compare(lambda: x.sum(dims[0]) @ x[0], lambda: x.sum(dims[1]) @ x[0]).causes
    assert (cause.code, cause.status) == ("FO008", "confirmed")


class Configured(torch.nn.Module):
    """Its configuration holds an epsilon that no attribute repeats, and a key that nothing uses."""

    def __init__(self, eps: float = 1e-5, unused: int = 1, home: str = "/a", wrong: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = {"eps": eps, "unused": unused, "home": home}
        self.linear = torch.nn.Linear(8, 8)
        self.register_buffer("shift", torch.linspace(1.0, 2.0 if wrong else 1.5, 8))  # a constant would not matter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x) + self.shift
        return torch.nn.functional.layer_norm(x, (8,), eps=self.config["eps"])


def test_a_config_key_is_linked_to_the_argument_that_carries_it() -> None:
    (cause,) = compare(Configured(), Configured(eps=1e-2), X).causes
    assert (cause.code, cause.status) == ("ST006", "inconclusive")
    assert cause.evidence[0].data["config"] == "eps"
    assert cause.evidence[0].data["origins"] == [":native_layer_norm#0.output.0"]
    assert cause.reason


def test_a_config_key_alone_is_inert_or_silent() -> None:
    assert compare(Configured(), Configured(unused=2), X).causes == ()
    found = compare(Configured(), Configured(unused=2, wrong=True), X).causes
    assert [(c.code, c.status, c.inert) for c in found] == [("ST002", "confirmed", False), ("ST006", "refuted", True)]


def test_a_path_is_no_setting() -> None:
    assert compare(Configured(), Configured(home="/b", wrong=True), X).causes[0].code == "ST002"
    assert len(compare(Configured(), Configured(home="/b", wrong=True), X).causes) == 1


def test_an_experiment_that_fails_does_not_spoil_the_others() -> None:
    class Sized(torch.nn.Module):
        def __init__(self, size: int, eps: float) -> None:
            super().__init__()
            self.size, self.norm = size, torch.nn.LayerNorm(8, eps=eps)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.size != 4 and self.norm.eps > 1e-4:
                raise ValueError("no such size")
            return self.norm(x)

    diagnosis = compare(Sized(5, 1e-5), Sized(4, 1e-2), X)
    found = {cause.site: cause for cause in diagnosis.causes}
    assert found["norm.eps"].status == "located"  # the reference cannot run with the candidate's epsilon
    assert "no such size" in found["norm.eps"].reason
    assert found["size"].status == "inconclusive"
    assert "no such size" in found["size"].reason


def test_the_pasted_setting_repairs_the_candidate() -> None:
    reference, candidate = norms(), norms(1e-3)
    (cause,) = compare(reference, candidate, X).causes
    assert cause.remedy is not None
    exec(cause.remedy.code, {"candidate": candidate})
    assert compare(reference, candidate, X).verdict is Verdict.IDENTICAL


def test_a_forgotten_eval_is_one_cause_and_names_the_dropout() -> None:
    reference = norms()
    candidate = copy.deepcopy(reference).train()
    (cause,) = compare(reference, candidate, X).causes
    assert (cause.code, cause.site, cause.status) == ("MD001", "(root)", "confirmed")
    assert [str(i) for i in cause.interventions] == ["set-mode  = False"]
    assert any("3:" in evidence.statement for evidence in cause.evidence[1:])


def test_one_module_in_training_mode_is_named() -> None:
    reference, candidate = norms(), norms()
    candidate[3].train()
    (cause,) = compare(reference, candidate, X).causes
    assert (cause.site, [i.target for i in cause.interventions]) == ("3", ["3"])


def test_a_mode_that_no_operator_asks_for_is_inert() -> None:
    candidate = norms()
    candidate[0].train()
    assert shown(compare(norms(), candidate, X)) == [("MD001", "0", "refuted", True)]


@pytest.mark.parametrize(
    ("wanted", "now", "settings"),
    [
        ({"": False, "a": False, "b": False}, {"": True, "a": True, "b": True}, [("", False)]),
        ({"": False, "a": False}, {"": False, "a": True}, [("a", False)]),
        ({"": False, "a": True, "a.b": True}, {"": True, "a": True, "a.b": True}, [("", False), ("a", True)]),
        ({"a": True, "a.b": False, "ab": True}, {"a": False, "a.b": False, "ab": True}, [("a", True), ("a.b", False)]),
    ],
)
def test_the_fewest_modules_are_set(wanted: Any, now: Any, settings: Any) -> None:
    assert smallest(wanted, now) == settings


def record(path: Path, model: Any, x: torch.Tensor) -> Path:
    with torch.no_grad(), whydiff.capture(path):
        model(x)
    return path


def test_another_input_is_named_and_proven(tmp_path: Path) -> None:
    model, other = norms(), X.clone()
    other[2, 3] += 1
    diagnosis = compare(record(tmp_path / "r", model, X), record(tmp_path / "c", model, other))
    (cause,) = diagnosis.causes
    assert (cause.code, cause.status, cause.verdict) == ("IN001", "confirmed", Verdict.SEMANTIC)
    assert cause.evidence[0].data["differing_elements"] == 1


def test_an_input_of_another_shape_has_no_experiment(tmp_path: Path) -> None:
    model = norms()
    diagnosis = compare(record(tmp_path / "r", model, X), record(tmp_path / "c", model, X[:2] + 1))
    (cause,) = diagnosis.causes
    assert (cause.code, cause.status) == ("IN001", "inconclusive")
    assert "shape" in cause.reason


def test_both_sides_that_do_not_repeat_themselves_are_named() -> None:
    def make() -> Any:
        count = itertools.count()
        return lambda: X * (1 + next(count))

    diagnosis = compare(make(), make())
    assert diagnosis.verdict is Verdict.NONDETERMINISTIC
    (cause,) = diagnosis.causes
    assert cause.code == "ND001" and "in each run of both sides" in cause.says
    assert not any(cause.inert or cause.status == "confirmed" for cause in diagnosis.causes)


def test_dropout_repeats_itself_and_is_no_nondeterminism() -> None:
    model = norms().train()
    assert compare(model, copy.deepcopy(model), X).causes == ()


class Switched(torch.nn.Module):
    """A flag or a name that chooses what is carried out."""

    def __init__(self, variant: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.variant, self.config = torch.nn.Linear(8, 8), variant, {"note": str(variant)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.linear(x)
        if self.variant is True:
            hidden = torch.nn.functional.layer_norm(hidden, (8,))
        if self.variant == "squared":
            hidden = hidden.relu().square()
        if self.variant == "half":
            hidden = hidden.bfloat16().float()
        if self.variant == "tanh":
            hidden = torch.tanh(hidden) * 2
        return hidden @ hidden.mT


@pytest.mark.parametrize(
    ("variants", "code", "ops"),
    [
        ((True, False), "FO007", "the reference carries out native_layer_norm, the candidate does not"),
        ((False, True), "FO007", "the candidate carries out native_layer_norm, the reference does not"),
        (("squared", "tanh"), "FO008", "the reference computes relu, pow, the candidate tanh, mul"),
        (("whole", "half"), "PR006", "values of the candidate pass through bfloat16"),
    ],
)
def test_a_setting_that_switches_between_ops_says_what_it_does(variants: Any, code: str, ops: str) -> None:
    cause, *others = compare(*map(Switched, variants), X).causes
    assert (cause.code, cause.status) == (code, "confirmed")
    assert all(one.inert for one in others)  # the configuration's key, which says so too
    assert cause.says == f"variant is {variants[1]!r} in the candidate, {variants[0]!r} in the reference: {ops}"
    assert cause.remedy is not None and cause.remedy.carried_out
    assert "variant" in cause.remedy.code
    assert cause.verdict is (Verdict.PRECISION if code == "PR006" else Verdict.SEMANTIC)


def test_a_flag_that_chooses_a_number_is_no_switch_of_another_step() -> None:
    class Flagged(torch.nn.Module):
        def __init__(self, flag: bool, steps: int) -> None:
            super().__init__()
            self.flag, self.steps = flag, [torch.sigmoid] * steps

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = x = torch.tanh(x) * (2.0 if self.flag else 1.5)
            for step in self.steps:
                hidden = step(hidden)
            return hidden @ x.mT

    found = compare(Flagged(True, 1), Flagged(False, 0), X).causes
    assert {c.code for c in found if c.status == "confirmed"} == {"FO001", "FO003"}


@pytest.mark.parametrize("times", [(2, 3), (1, 2)])
def test_a_number_of_rounds_is_a_setting(times: tuple[int, int]) -> None:
    class Rounds(torch.nn.Module):
        def __init__(self, rounds: int) -> None:
            super().__init__()
            self.rounds = rounds

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(self.rounds):
                x = torch.tanh(x) + x
            return x

    (cause,) = compare(*map(Rounds, times), X).causes
    assert (cause.code, cause.status) == ("ST006", "confirmed")


class TwoFlags(torch.nn.Module):
    """One flag leaves a step out, the other one casts, a third does nothing."""

    def __init__(self, bent: bool, half: bool, dead: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.bent, self.half, self.dead = torch.nn.Linear(8, 8), bent, half, dead

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.linear(x)) if self.bent else self.linear(x)
        hidden = hidden.bfloat16().float() if self.half else hidden
        return hidden @ hidden.mT


def test_two_flags_of_one_module_are_not_said_to_do_what_the_other_does() -> None:
    found = compare(TwoFlags(True, False), TwoFlags(False, True), X)
    assert found.verdict is Verdict.SEMANTIC
    assert {(c.code, c.says) for c in found.causes} == {
        ("ST006", "bent is False in the candidate, True in the reference"),
        ("ST006", "half is True in the candidate, False in the reference"),
    }


def test_a_flag_that_does_nothing_is_not_said_to_switch_what_another_one_does() -> None:
    found = compare(TwoFlags(False, False), TwoFlags(False, True, dead=True), X)
    assert found.verdict is Verdict.PRECISION
    assert [(c.code, c.status) for c in found.causes if not c.inert] == [("PR006", "confirmed")]
    assert [(c.code, c.says) for c in found.causes if c.inert] == [
        ("ST006", "dead is True in the candidate, False in the reference")
    ]


def test_code_of_a_fix_says_what_stands_for_a_function_and_is_none_for_its_own_tensors() -> None:
    narrow, wide = (torch.nn.LayerNorm(8, eps=eps) for eps in (1e-5, 1e-3))
    x, gain, other = torch.linspace(-1, 1, 16).reshape(2, 8), torch.ones(8), torch.full((8,), 1.01)
    code = [
        cause.remedy.code
        for found in (
            whydiff.compare(narrow, wide, x),
            whydiff.compare(lambda x: narrow(x), lambda x: wide(x), x),
            whydiff.compare(lambda x: x * gain, lambda x: x * other, x),
        )
        for cause in found.causes
        if cause.remedy is not None
    ]
    stands = "# candidate: the module in which these names are\n"
    assert code == ["candidate.eps = 1e-05\n", f"{stands}candidate.eps = 1e-05\n", ""]


def test_a_whole_number_and_another_one_are_settings_of_one_kind() -> None:
    """alpha for alpha / rank: 16 and 16 / 4."""

    class Adapter(torch.nn.Module):
        def __init__(self, scaling: float) -> None:
            super().__init__()
            self.scaling = scaling

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tanh(x) * self.scaling

    for ours, theirs in ((16 / 4, 16), (16, 16 / 4)):
        (cause,) = whydiff.compare(Adapter(ours), Adapter(theirs), X).causes
        assert (cause.code, cause.status) == ("ST006", "confirmed")
