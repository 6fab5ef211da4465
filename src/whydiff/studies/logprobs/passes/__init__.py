"""The tests, in the order in which they are made: each sees the pairs as the ones before it left them."""

from __future__ import annotations

from collections.abc import Callable

from whydiff.numbers.tolerance import LOGPROB_TOKENS
from whydiff.studies.logprobs.pairs import Pairs
from whydiff.studies.logprobs.passes.groups import padded, stale, worker
from whydiff.studies.logprobs.passes.noise import noise, outliers
from whydiff.studies.logprobs.passes.shift import shift, without_shifted_in
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
    relations, left = _each(RELATIONS, pairs)
    places, left = _each(PLACES, _in_one_context(left))
    bad, left = worker(left, _inside)
    more, _ = _each(DISTRIBUTIONS + REST, left)
    return (*without_shifted_in(relations), *places, bad, *more)


def _in_one_context(pairs: Pairs) -> Pairs:
    """Without sequences whose tokens differ on the way, if others are left."""
    if pairs.retold is None:
        return pairs
    others = ~pairs.retold[pairs.sequence]
    return pairs.only(others) if others.sum() >= LOGPROB_TOKENS else pairs


def _inside(pairs: Pairs) -> tuple[Result, ...]:
    return _each((shift, *DISTRIBUTIONS), pairs)[0]


def _each(passes: tuple[Pass, ...], pairs: Pairs) -> tuple[tuple[Result, ...], Pairs]:
    results = []
    for one in passes:
        result, pairs = one(pairs)
        results.append(result)
    return tuple(results), pairs


__all__ = ["Pass", "examine"]
