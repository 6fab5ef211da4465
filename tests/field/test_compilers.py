"""Compiled programs: the verdict is that of the numbers, and no precision is claimed that was not shown."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tests.field import compilers

from whydiff.pipeline import compare
from whydiff.records import Diagnosis

CASES = {  # case: verdicts, the first cause's code and status; empty: none is demanded
    "scaled": ({"semantic"}, ("CP002", "located")),
    "slightly_scaled": ({"semantic"}, ("CP002", "located")),
    "autocast_inside": ({"precision"}, ("CP007", "confirmed")),
    "adds_otherwise": ({"rounding"}, ("CP002", "located")),
    "cross_product": ({"rounding", "unstable"}, ("CP003", "confirmed")),
    "polynomial": ({"rounding", "identical"}, ()),
    "other_operand": ({"semantic", "unstable"}, ()),
    "exported": ({"identical"}, ()),
    "scripted": ({"identical", "rounding"}, ()),
    "traced_branch": ({"semantic"}, ("FO008", "located")),
    "exported_in_training": ({"semantic"}, ()),
    "optimizer_step": ({"rounding", "identical"}, ()),
    "removed_casts": ({"precision", "rounding", "identical", "inconclusive"}, ()),
}


@cache
def diagnosed(name: str) -> Diagnosis:
    return compare(*getattr(compilers, name)())


@pytest.mark.parametrize("name", CASES)
def test_compiled_programs(name: str) -> None:
    verdicts, first = CASES[name]
    diagnosis = diagnosed(name)
    assert str(diagnosis.verdict) in verdicts, diagnosis.reason
    assert not [c for c in diagnosis.causes if c.code in ("CP001", "PR001") and c.status == "confirmed"]
    if first:
        assert (diagnosis.causes[0].code, diagnosis.causes[0].status) == first
    elif name == "other_operand":
        assert not [c for c in diagnosis.causes if c.code == "CP003" and c.status == "confirmed"]


def test_a_fused_multiply_add_names_the_cancellation() -> None:
    (cause,) = [c for c in diagnosed("cross_product").causes if c.code == "CP003"]
    assert cause.evidence[1].data["cancelled"] == cause.evidence[1].data["bits"] == 24
    assert cause.remedy is not None
    assert "torch" not in cause.remedy.code


def test_bfloat16_rotary_is_excess_precision_and_says_which_side_is_nearer() -> None:
    diagnosis = compare(*compilers.rotary(torch.bfloat16))
    (cause,) = diagnosis.causes
    assert (str(diagnosis.verdict), cause.code, cause.status) == ("precision", "CP001", "confirmed")
    assert {experiment.direction for experiment in cause.experiments} == {"take_away", "put_in"}
    assert cause.evidence[0].data["nearer"] == "candidate"
    assert cause.remedy is not None
    assert cause.remedy.carried_out


def test_a_float32_program_is_never_told_to_emulate_casts() -> None:
    diagnosis = compare(*compilers.rotary(torch.float32))
    said = [c.remedy.code for c in diagnosis.causes if c.remedy is not None]
    assert str(diagnosis.verdict) in {"identical", "rounding"}
    assert not [code for code in said if "emulate" in code]


def test_comparing_leaves_compiled_code_as_it_was() -> None:
    reference, candidate = compilers.scaled()
    before = candidate()
    compare(reference, candidate)
    assert torch.equal(candidate(), before)


def test_reruns_at_other_precisions_do_not_use_up_the_compilers_versions() -> None:
    model, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    compiled = torch.compile(model, backend=lambda graph, _: lambda *args: [out * 1.25 for out in graph(*args)])
    with torch._dynamo.config.patch(recompile_limit=3):
        for _ in range(3):
            assert str(compare(lambda: model(x), lambda: compiled(x)).verdict) == "semantic"
