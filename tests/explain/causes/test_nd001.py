"""ND001: the fix fits what does not repeat itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Cause, Verdict
from whydiff.report.answer import answer

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
COUNT = itertools.count(1)
OWN = np.random.default_rng(0)


def drawn(x: Any) -> Any:
    torch.manual_seed(next(COUNT))  # by a seed that nobody sets
    return x + torch.rand(4, 8)


def decided(x: Any) -> Any:
    return x.sin() if next(COUNT) % 2 else x.cos().neg()


PROGRAMS: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "a counter": (lambda x: x * next(COUNT), "mul is given another number in each run of both sides", "a counter"),
    "an array": (lambda x: x + torch.from_numpy(OWN.random(8)), "add reads other numbers", "a generator"),
    "a path": (decided, "is reached by other steps", "Python decides by it"),
    "draws": (drawn, "rand draws other numbers", "Seed the generator that rand draws from"),
}


def found(reference: Any, candidate: Any) -> Cause:
    diagnosis = compare(reference, candidate, X)
    assert diagnosis.verdict is Verdict.NONDETERMINISTIC
    (cause,) = (one for one in diagnosis.causes if one.code == "ND001")
    assert cause.says in answer(diagnosis).headline and answer(diagnosis).fix.startswith(cause.remedy.text[:30])  # type: ignore[union-attr]
    return cause


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_fix_fits_what_does_not_repeat_itself(name: str) -> None:
    program, says, fix = PROGRAMS[name]
    cause = found(program, program)
    assert cause.status == "located" and says in cause.says
    assert cause.remedy is not None and fix in cause.remedy.text
    assert ("manual_seed" in cause.remedy.code) is (name == "draws"), "a seed is the fix of draws alone"


def test_what_deterministic_algorithms_mend_is_tried() -> None:
    def atomically(x: Any) -> Any:
        return x.roll(0 if torch.are_deterministic_algorithms_enabled() else next(COUNT), 0)

    cause = found(lambda x: x.roll(0, 0), atomically)
    assert cause.remedy is not None and cause.remedy.carried_out and "use_deterministic" in cause.remedy.code


@pytest.mark.parametrize("number", [lambda n: min(n, 4), lambda n: n % 3])
def test_what_stands_still_by_itself_for_two_runs_is_not_mended_by_them(number: Callable[[int], int]) -> None:
    count = itertools.count(1)
    cause = found(lambda x: x * 1, lambda x: x * number(next(count)))
    assert cause.remedy is not None and not cause.remedy.carried_out
