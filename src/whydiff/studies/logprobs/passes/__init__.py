"""The tests, in the order in which they are made: each sees the pairs as the ones before it left them."""

from __future__ import annotations

from collections.abc import Callable

from whydiff.studies.logprobs.pairs import Pairs
from whydiff.studies.logprobs.passes.groups import padded, stale, worker
from whydiff.studies.logprobs.passes.noise import noise, outliers
from whydiff.studies.logprobs.passes.shift import shift
from whydiff.studies.logprobs.passes.temperature import temperature
from whydiff.studies.logprobs.passes.truncated import truncated
from whydiff.studies.logprobs.passes.unit import unit
from whydiff.studies.logprobs.passes.unscored import unscored
from whydiff.studies.logprobs.results import Result

Pass = Callable[[Pairs], tuple[Result, Pairs]]
"""A test: its result, and the pairs with the mistake taken back, or without the tokens that have it."""

RELATIONS: tuple[Pass, ...] = (unit, unscored, shift)
PLACES: tuple[Pass, ...] = (stale, padded)
DISTRIBUTIONS: tuple[Pass, ...] = (truncated, temperature)
REST: tuple[Pass, ...] = (outliers, noise)


def examine(pairs: Pairs) -> tuple[Result, ...]:
    """Every test, one after the other."""
    results, left = _each(RELATIONS + PLACES, pairs)
    bad, left = worker(left, _inside)
    more, _ = _each(DISTRIBUTIONS + REST, left)
    return (*results, bad, *more)


def _inside(pairs: Pairs) -> tuple[Result, ...]:
    return _each((shift, *DISTRIBUTIONS), pairs)[0]


def _each(passes: tuple[Pass, ...], pairs: Pairs) -> tuple[tuple[Result, ...], Pairs]:
    results = []
    for one in passes:
        result, pairs = one(pairs)
        results.append(result)
    return tuple(results), pairs


__all__ = ["Pass", "examine"]
