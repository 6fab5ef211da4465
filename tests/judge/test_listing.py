from __future__ import annotations

import torch

from whydiff.pipeline import compare

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def test_every_op_of_both_runs_is_listed_once_in_order() -> None:
    def reference() -> torch.Tensor:
        return torch.exp(torch.tanh(X) * 2).sum()

    def candidate() -> torch.Tensor:
        return torch.exp(torch.tanh(X) * 3).neg().neg().sum()

    found = compare(reference, candidate)
    listed = [(row.op, row.state) for row in found.ops]
    assert listed[0] == ("tanh", "agrees")
    assert ("mul", "starts here") in listed and ("exp", "differs") in listed
    assert [op for op, state in listed if state == "candidate only"] == ["neg", "neg"]
    assert [op for op, _ in listed] == ["tanh", "mul", "exp", "neg", "neg", "sum"]
    exp = found.ops[2]
    assert exp.writes == ("float32[3,4]",) and exp.reads == ("float32[3,4]",) and "exp" in exp.target


def test_a_step_that_one_side_lacks_starts_a_difference() -> None:
    found = compare(lambda: torch.exp(torch.tanh(X)), lambda: torch.exp(torch.tanh(X) * 3))
    states = {row.op: row.state for row in found.ops}
    assert "starts here" in states.values() and states["tanh"] == "agrees"


def test_other_dtypes_stand_beside_each_other() -> None:
    found = compare(lambda: torch.tanh(X), lambda: torch.tanh(X.bfloat16()))
    assert any("float32[3,4] ↔ bfloat16[3,4]" in row.writes for row in found.ops)


def test_outputs_and_the_first_places_have_pictures() -> None:
    found = compare(lambda: torch.tanh(X * 2), lambda: torch.tanh(X * 3))
    names = [one.name for one in found.pictures]
    assert names[0] == "output" and any("mul" in name for name in names[1:])
    assert not compare(lambda: torch.tanh(X), lambda: torch.tanh(X)).pictures
