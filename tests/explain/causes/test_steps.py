"""A step that one side has and the other has not: inserted and removed, and the other readers of the value keep it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from whydiff.pipeline import compare

A, B, X = (
    torch.randn(*s, generator=torch.Generator().manual_seed(i)) / 3 for i, s in enumerate(((16, 32), (32, 16), (4, 16)))
)
HEAD = torch.randn(16, 8, generator=torch.Generator().manual_seed(5))


def mlp(h: torch.Tensor) -> torch.Tensor:
    return F.gelu(h @ A) @ B


def norm(h: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(h, (16,))


def block(inner: Any, given: Any = torch.tanh) -> Any:
    def run() -> torch.Tensor:
        h = given(X)
        return (h + mlp(inner(h))) @ HEAD

    return run


def untouched(h: torch.Tensor) -> torch.Tensor:
    return h


@pytest.mark.parametrize("given", [torch.tanh, untouched], ids=["a value of the run", "an input"])
@pytest.mark.parametrize("turned", [False, True], ids=["left out", "added"])
def test_a_norm_inside_a_residual_block(given: Any, turned: bool) -> None:
    """The value before it is read again by the residual, which must not see the norm."""
    sides = [block(norm, given), block(untouched, given)]
    found = compare(*(sides[::-1] if turned else sides))
    assert len(found.origins) == 1
    assert [(c.code, c.status) for c in found.causes] == [("FO007", "confirmed")]
    assert {e.direction for e in found.causes[0].experiments if e.status == "confirmed"} == {"take_away", "put_in"}
    names = {i.name for e in found.causes[0].experiments for i in e.interventions}
    assert names == {"insert-step", "remove-step"}


def test_two_blocks_without_their_norms_are_one_cause() -> None:
    def two(inner: Any) -> Any:
        def run() -> torch.Tensor:
            h = torch.tanh(X)
            for _ in range(2):
                h = h + mlp(inner(h))
            return h @ HEAD

        return run

    found = compare(two(norm), two(untouched))
    assert [(c.code, c.status) for c in found.causes] == [("FO007", "confirmed")]
    assert len(found.origins) == 2


def test_another_value_taken_up_is_no_step_left_out() -> None:
    """The candidate has no op here either, but what it reads is not what the step begins with."""

    def run(other: bool) -> Any:
        def program() -> torch.Tensor:
            h, g = torch.tanh(X), torch.sigmoid(X @ A @ B)
            return (mlp(g if other else norm(h)) + h * g) @ HEAD

        return program

    found = compare(run(False), run(True))
    assert not [c for c in found.causes if c.status == "confirmed"]
    assert found.verdict == "semantic"
