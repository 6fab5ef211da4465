"""A model cast as a whole in which one tensor was changed too: the tensor is another function, the cast is precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import whydiff
from whydiff.records import Diagnosis, Verdict

ROWS = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))


class Tabled(nn.Module):
    """Two layers and a table that is no parameter."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.norm, self.down = nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 8)
        self.register_buffer("table", torch.rand(32) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.norm(self.up(x)) * self.table))


def as_is(model: Tabled) -> None:
    """The cast alone."""


def weight(model: Tabled) -> None:
    model.up.weight[3] *= 1.5


def table(model: Tabled) -> None:
    model.table *= 1.25


def less_than_rounding(model: Tabled) -> None:
    model.up.weight *= 1 + 2**-24


def compared(change: Callable[[Tabled], None], dtype: torch.dtype, turned: bool = False) -> Diagnosis:
    wide, narrow = Tabled(), Tabled()
    with torch.no_grad():
        change(narrow)
    narrow.to(dtype)
    ours, theirs = torch.no_grad()(lambda: wide(ROWS)), torch.no_grad()(lambda: narrow(ROWS.to(dtype)).float())
    return whydiff.compare(*((theirs, ours) if turned else (ours, theirs)))


def is_named_and_proven(found: Diagnosis, code: str) -> None:
    assert found.verdict is Verdict.SEMANTIC, found.reason
    assert {c.code: (c.status, c.verdict) for c in found.causes} == {
        code: ("confirmed", Verdict.SEMANTIC),
        "PR002": ("confirmed", Verdict.PRECISION),
    }
    assert found.causes[0].code == code


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("change", "code"), [(weight, "ST001"), (table, "ST002")])
def test_a_changed_tensor_and_the_cast_are_both_proven(
    change: Callable[[Tabled], None], code: str, dtype: torch.dtype
) -> None:
    found = compared(change, dtype)
    is_named_and_proven(found, code)
    cast = next(c for c in found.causes if c.code == "PR002")
    changed = "up.weight" if change is weight else "table"
    assert not any(str(name).endswith(changed) for name in cast.evidence[0].data["names"])  # it is no rounding


def test_a_weight_that_is_no_number_is_no_other_way_to_the_same_values() -> None:
    def no_number(model: Tabled) -> None:
        model.down.weight[3, 1] = torch.nan

    found = compared(no_number, torch.bfloat16)
    assert found.verdict is Verdict.UNSTABLE
    assert {c.code: c.status for c in found.causes} == {"ST001": "confirmed", "PR002": "confirmed"}


def test_the_reference_may_be_the_cast_side() -> None:
    is_named_and_proven(compared(weight, torch.float16, turned=True), "ST001")


@pytest.mark.parametrize("change", [as_is, less_than_rounding])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_a_cast_alone_makes_is_no_changed_tensor(change: Callable[[Tabled], None], dtype: torch.dtype) -> None:
    found = compared(change, dtype)
    assert found.verdict is Verdict.PRECISION, found.reason
    assert [c.code for c in found.causes if c.status == "confirmed"] == ["PR002"]


def test_a_tensor_that_was_rounded_otherwise_is_not_proven_to_be_changed() -> None:
    wide, narrow = Tabled(), Tabled().bfloat16()
    with torch.no_grad():  # towards zero
        bits = wide.up.weight.view(torch.int32) & ~0xFFFF
        narrow.up.weight.copy_(bits.view(torch.float32))
        found = whydiff.compare(lambda: wide(ROWS), lambda: narrow(ROWS.bfloat16()).float())
    (cause,) = (c for c in found.causes if c.code == "ST001")
    assert cause.status == "inconclusive" and "in the dtype that the candidate holds" in cause.reason


@pytest.mark.parametrize(("factor", "codes"), [(1.5, ["ST002", "PR002"]), (1.0, ["PR002"])])
def test_it_is_the_same_in_jax(factor: float, codes: list[str]) -> None:
    rng = np.random.default_rng(0)
    held = {"up": rng.normal(size=(16, 32)).astype("f4") / 4, "down": rng.normal(size=(32, 8)).astype("f4") / 5}
    other = {**held, "up": held["up"] * np.float32(factor)}

    def made(state: dict[str, Any], dtype: Any) -> Callable[[], Any]:
        given = {name: jnp.asarray(value, dtype) for name, value in state.items()}
        x = jnp.asarray(ROWS.numpy(), dtype)
        return lambda: (jnp.tanh(x @ given["up"]) @ given["down"]).astype(jnp.float32)

    found = whydiff.compare(made(held, jnp.float32), made(other, jnp.bfloat16))
    assert [c.code for c in found.causes if c.status == "confirmed"] == codes
    assert found.verdict is (Verdict.SEMANTIC if factor != 1 else Verdict.PRECISION)
