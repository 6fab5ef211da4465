"""What could have been mistaken: how one side's rewriting makes the other's numbers, tried and proven."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from whydiff.studies.port.bench import Bench, distance, near
from whydiff.studies.port.rewrites import NOTHING, Rewrite

_PAIRS = 120
"""Pairs of mistakes that are tried at one point (a size, not a tolerance)."""


@dataclass(frozen=True)
class Hypothesis:
    """One mistake.

    Attributes:
        code: of the pattern, as the causes have it.
        says: one plain sentence.
        said: what the reference does and what the candidate does.
        fix: what to do in the candidate.
        teller: the side whose rewriting makes the other side's numbers.
        mine: that rewriting.
        other: what turns the other side's numbers into the teller's, carried out on its own steps; empty: what the
            teller computes, computed in its place.
        jumps: it rounds what a step reads coarsely, so that a last bit before it becomes a whole step behind it: such
            mistakes are shown each on the reference's own values, not all in one run.
        parts: the mistakes that are made together in one step; none: it is one.
    """

    code: str
    says: str
    said: tuple[str, str]
    fix: str
    teller: int
    mine: Rewrite
    other: Rewrite = NOTHING
    jumps: bool = False
    parts: tuple[Hypothesis, ...] = ()

    @property
    def mistake(self) -> tuple[Any, ...]:
        """What tells mistakes apart, wherever they are made."""
        return self.code, self.said


def taken_for(
    code: str,
    side: int,
    said: tuple[str, str],
    mine: Rewrite,
    *,
    says: str,
    fix: str,
    other: Rewrite = NOTHING,
    parts: tuple[Hypothesis, ...] = (),
) -> Hypothesis:
    """One side's way of computing, taken for the other's.

    Args:
        code: of the pattern.
        side: the teller.
        said: what the teller does, and what it does once it is rewritten.
        mine, other, parts: as `Hypothesis` has them.
        says, fix: sentences; in them ``{reference}`` and ``{candidate}`` stand for what either side does.
    """
    said = said if side == 0 else (said[1], said[0])
    told = [text.replace("{reference}", said[0]).replace("{candidate}", said[1]) for text in (says, fix)]
    return Hypothesis(code=code, says=told[0], said=said, fix=told[1], teller=side, mine=mine, other=other, parts=parts)


@dataclass(frozen=True)
class Tried:
    """A hypothesis that fits, alone or together with others at the same point.

    Attributes:
        hypotheses: all of them together make the other side's numbers.
        mine: the rewriting of the teller.
        other: that of the other side; empty: there is none.
        before: how far the two sides are apart.
        after: the same with the teller rewritten.
        back: the same with the other side's own steps rewritten; None: they cannot be.
        second: whether it holds on another input; None: there is none.
    """

    hypotheses: tuple[Hypothesis, ...]
    mine: Rewrite
    other: Rewrite
    before: float
    after: float
    back: float | None
    second: bool | None


def fitting(bench: Bench, number: int, hypotheses: Sequence[Hypothesis]) -> Tried | None:
    """The first hypothesis, or else the first two, that explain what departs at a point; not refuted on a second input."""
    for hypothesis in hypotheses:
        found = _tried(bench, number, (hypothesis,))
        if found is not None:
            return found
    return next((found for pair in _pairs(hypotheses) if (found := _tried(bench, number, pair)) is not None), None)


def _pairs(hypotheses: Sequence[Hypothesis]) -> Iterator[tuple[Hypothesis, Hypothesis]]:
    tried = 0
    for place, one in enumerate(hypotheses):
        for other in hypotheses[place + 1 :]:
            if one.teller != other.teller or one.code == other.code or tried >= _PAIRS:
                continue
            if one.mine.and_also(other.mine) is not None:
                tried += 1
                yield one, other


def _tried(bench: Bench, number: int, together: tuple[Hypothesis, ...]) -> Tried | None:
    teller = together[0].teller
    mine = _joined([one.mine for one in together])
    result = bench.judged[number].result
    if mine is None or result is None:
        return None
    target, own = result[1 - teller], result[teller]
    before = distance(target, own)
    value = bench.value(teller, number, mine)
    if value is None or not near(value, target, before, bench.unit):
        return None
    second = None
    if bench.second is not None and number in bench.second.results:
        there = bench.second.results[number]
        again = bench.value(teller, number, mine, bench.second)
        second = near(again, there[1 - teller], distance(*there), bench.unit)
        if not second:
            return None
    back = None
    other = _joined([one.other for one in together]) if all(one.other for one in together) else None
    if other is not None:
        undone = bench.value(1 - teller, number, other)
        if undone is not None and near(undone, own, before, bench.unit):
            back = distance(undone, own)
    return Tried(
        hypotheses=tuple(part for one in together for part in (one.parts or (one,))),
        mine=mine,
        other=NOTHING if other is None or back is None else other,
        before=before,
        after=distance(value, target),
        back=back,
        second=second,
    )


def _joined(rewrites: Sequence[Rewrite]) -> Rewrite | None:
    whole: Rewrite | None = rewrites[0]
    for one in rewrites[1:]:
        whole = whole.and_also(one) if whole is not None else None
    return whole
