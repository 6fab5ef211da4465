"""A tensor of the other side in a side's place: as it is there, or in the dtype that the side holds."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from whydiff.capturing.adapters import executor_of, for_framework
from whydiff.errors import ReplayError
from whydiff.explain.restoring import by_values, restored
from whydiff.explain.sides import Sides
from whydiff.pair.align import align
from whydiff.records import Intervention

VALUE = {"reference": 1 / 3, "candidate": 2 / 3}


class Held(torch.nn.Module):
    """A weight that is read in the dtype in which it is held, and in no other."""

    def __init__(self, value: float, dtype: str, size: int = 3) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((size,), value, dtype=getattr(torch, dtype)))
        self.dtype = self.weight.dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight.dtype != self.dtype:
            raise RuntimeError("another dtype")
        return (x * self.weight).sum()


def held_in_torch(dtypes: tuple[str, str], sizes: tuple[int, int] = (3, 3)) -> tuple[Any, Any, str]:
    models = [Held(*given) for given in zip(VALUE.values(), dtypes, sizes, strict=True)]
    runs = [for_framework("torch").run(model, (torch.ones(1, dtype=model.dtype),), {}) for model in models]
    return (*runs, "weight")


def held_in_jax(dtypes: tuple[str, str]) -> tuple[Any, Any, str]:
    def run(value: float, dtype: str) -> Any:
        weight = jnp.full((3,), value, dtype)

        def target(x: Any) -> Any:
            return (x * weight).sum() if weight.dtype == dtype else None

        return for_framework("jax").run(target, (jnp.ones(1, dtype),), {})

    first, second = (run(*given) for given in zip(VALUE.values(), dtypes, strict=True))
    return first, second, "weight"


def sides_of(runs: tuple[Any, Any]) -> Sides:
    with torch.no_grad():
        traces = [run.capture() for run in runs]
    return Sides(traces[0], traces[1], align(*traces), lambda: (), runs)


@pytest.mark.parametrize("make", [held_in_torch, held_in_jax])
def test_a_tensor_is_given_in_the_dtype_that_is_held(make: Any) -> None:
    *runs, name = make(("float32", "bfloat16"))
    sides = sides_of((runs[0], runs[1]))
    executor = executor_of(sides.candidate)
    state, values = (Intervention(how, name) for how in ("restore-state", "restore-values"))
    wide, wider = (Intervention("hold-in", name, dtype) for dtype in ("float32", "float64"))
    for items, dtype, value in [
        ((state,), "float32", np.float32(1 / 3)),
        ((values,), "bfloat16", 171 / 512),
        ((values, wide), "float32", np.float32(1 / 3)),
        ((wide, values), "float32", np.float32(1 / 3)),
        ((wide,), "float32", 171 / 256),
        ((wider,), "float64", 171 / 256),
    ]:
        found = restored(sides, items)
        assert list(found) == [name]
        payload = executor.payload(found[name])
        assert payload.dtype == dtype
        assert float(executor.payload(executor.held_in(found[name], "float64")).bits.reshape(-1)[0]) == float(value)


@pytest.mark.parametrize("make", [held_in_torch, held_in_jax])
@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("float16", "float32")])
def test_a_live_run_is_given_it_in_the_dtype_that_it_holds(make: Any, dtypes: tuple[str, str]) -> None:
    *runs, name = make(dtypes)
    sides = sides_of((runs[0], runs[1]))
    item = Intervention("restore-values", name)
    assert runs[1].supports(item)
    ((_, value),) = runs[1].plain([item], executor_of(sides.reference))
    assert executor_of(sides.candidate).payload(value).dtype == dtypes[1]
    assert abs(float(value) - 1) < 0.01


def test_values_alone_are_put_back_where_the_dtypes_differ() -> None:
    item = Intervention("restore-state", "weight")
    for dtypes, name in (
        (("float32", "float16"), "restore-values"),
        (("float32", "float32"), "restore-state"),
        (("complex64", "float32"), "restore-state"),
        (("complex64", "complex128"), "restore-values"),
    ):
        sides = sides_of(held_in_torch(dtypes)[:2])
        found = by_values((sides.reference, sides.candidate), (item, Intervention("set-mode", "", False)))
        assert [one.name for one in found] == [name, "set-mode"]


def test_a_tensor_of_another_shape_takes_no_place() -> None:
    sides = sides_of(held_in_torch(("float32", "float16"), (1, 3))[:2])
    with pytest.raises(ReplayError, match="another shape"):
        restored(sides, [Intervention("restore-values", "weight")])
