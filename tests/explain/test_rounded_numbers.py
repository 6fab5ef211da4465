"""Numbers in the code of a traced program are held in the dtype in which its ops compute: rounded, no other function."""

from __future__ import annotations

from types import SimpleNamespace as Record
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import whydiff
from whydiff.explain.case import Case
from whydiff.explain.rounded_numbers import numbers_back, rounded_numbers
from whydiff.records import Intervention, Verdict

X = np.linspace(0.1, 2, 24, dtype=np.float32).reshape(4, 6)
W = np.linspace(-1, 1, 6, dtype=np.float32)


def program(dtype: Any, number: float, *, held: bool) -> Any:
    """``held``: the weight is cast when it is read, as modules with a dtype of their own do; else it is held in it."""
    weight = jnp.asarray(W if held else W.astype(dtype))

    def function(x: Any) -> Any:
        given = np.asarray(number).astype(dtype)  # as libraries do with a root of two, or with pi
        return (jnp.sin(x.astype(dtype) * weight.astype(dtype)) * given).astype(jnp.float32)

    return function


def compared(dtype: Any, number: float, *, held: bool, turned: bool = False) -> Any:
    sides = program(jnp.float32, 0.7071, held=True), program(dtype, number, held=held)
    return whydiff.compare(*map(jax.jit, sides[::-1] if turned else sides), jnp.asarray(X))


@pytest.mark.parametrize(("held", "turned"), [(True, False), (False, False), (False, True)])
def test_a_number_that_was_rounded_with_the_program_is_precision(held: bool, turned: bool) -> None:
    found = compared(jnp.bfloat16, 0.7071, held=held, turned=turned)
    assert found.verdict is Verdict.PRECISION, found.reason
    assert "numbers in the code" in found.reason or any(c.status == "confirmed" for c in found.causes)


@pytest.mark.parametrize(("dtype", "number"), [(jnp.bfloat16, 0.72), (jnp.float16, 0.7079)])
def test_another_number_is_another_function(dtype: Any, number: float) -> None:
    assert compared(dtype, number, held=True).verdict is Verdict.SEMANTIC


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A case of one pair of calls: (dtype, number) of the reference and of the candidate."""

    def made(ours: tuple[str, float], theirs: tuple[str, float]) -> Any:
        def call(dtype: str, number: float) -> Any:
            event = Record(spec=Record(dtype=dtype))
            site = type("Site", (str,), {"op": "add"})(f":add#{dtype}")
            return Record(site=site, arguments=[[{"$read": 0}, number], {}], reads=(event,), writes=(event,))

        return Record(paired=lambda: [(call(*ours), call(*theirs))], shared=lambda _, make: make())

    return made


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        (("float32", 1e-5), ("bfloat16", 1.0013580322265625e-05), True),
        (("bfloat16", 1.0013580322265625e-05), ("float32", 1e-5), True),
        (("float32", 1e-5), ("bfloat16", 1.1e-05), False),
        (("float32", 1e-5), ("float32", 1.0013580322265625e-05), False),
        (("float32", 1e-8), ("float16", 0.0), False),  # it vanishes
        (("float32", 1e9), ("float16", float("inf")), False),
        (("float32", 0.5), ("bfloat16", 0.5), False),
        (("float32", 3), ("bfloat16", 4), False),
    ],
)
def test_what_is_a_rounded_number(case: Any, ours: tuple[str, float], theirs: tuple[str, float], found: bool) -> None:
    made: Case = case(ours, theirs)
    assert bool(rounded_numbers(made)) is found
    given = (Intervention("set-argument", f":add#{theirs[0]}", (1, ours[1])),)
    assert numbers_back(made) == (given if found else ())
