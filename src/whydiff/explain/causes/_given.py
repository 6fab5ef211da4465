"""Ops that need not correspond and are given another number in the code: a finding for whoever knows what the number is."""

from __future__ import annotations

from collections.abc import Sequence

from whydiff.explain.causes._view import Finding, View
from whydiff.explain.local_test import Number, Otherwise, spelt
from whydiff.records import Evidence, Verdict

FACTORS = ("factor", "divisor", "attention scale")


def other_number(view: View, code: str, kinds: Sequence[str] = (), called: str = "") -> Finding | None:
    """The finding that ops differ in a number of the code (or in two), and in nothing else.

    Args:
        view: a region.
        code: of the cause.
        kinds: what the numbers may be, one of them the first, see `Number`; empty: anything.
        called: the one word for all of these kinds; empty: each has its own.
    """
    found = view.numbers if view.narrowed is None else None  # else its part is asked
    there = set() if found is None else {number.kind for side in found.numbers for number in side}
    if found is None or (kinds and not (kinds[0] in there and there <= {*kinds})):
        return None
    said = [_said(found, side) for side in (0, 1)]
    left = max(left for left, numbers in zip(found.left, found.numbers, strict=True) if numbers)
    evidence = Evidence(
        f"{'; '.join(filter(None, said))} (in float64 they are then no more than {left:.1e} of their size apart, and "
        f"{found.before:.1e} as they are)",
        {
            "reference": [number.value for number in found.numbers[0]],
            "candidate": [number.value for number in found.numbers[1]],
            "left": list(found.left),
            "before": found.before,
        },
    )
    spoken = _spoken(found)
    if called:
        spoken = (" and ".join(called for _ in spoken[0].split(" and ")), *spoken[1:])
    return Finding(
        code,
        ("number", *spoken),
        Verdict.SEMANTIC,
        (evidence,),
        found.set(1) or view.replace_op(),
        {"reference": spoken[1], "candidate": spoken[2], "word": spoken[0], "text": said[1] or said[0]},
        put_in=found.set(0),
        says=f"the candidate's {spoken[0]} {'are' if ' and ' in spoken[0] else 'is'} {spoken[2]}, the reference's {spoken[1]}",
    )


def _said(found: Otherwise, side: int) -> str:
    """What one side is given, and what would make it the other."""
    if not found.numbers[side]:
        return ""
    own, other = (("reference", "candidate"), ("candidate", "reference"))[side]
    given = " and ".join(f"{n.value:.6g} as the {_name(n)}" for n in found.numbers[side])
    instead = spelt(found.instead[side])
    return f"the {own} is given {given}: with {instead} it gives what the {other} gives"


def _name(number: Number) -> str:
    call, _ = number.places[0]
    return number.kind if f" of {call.site.op}" in number.kind else f"{number.kind} of {call.site.op}"


def _spoken(found: Otherwise) -> tuple[str, str, str]:
    """What the numbers are, the reference's, the candidate's."""
    ours, theirs = found.numbers if found.is_exchange else ((), ())
    if len(ours) == len(theirs) == 1 and (pair := _factors(ours[0], theirs[0])) is not None:
        return pair
    if len(ours) == len(theirs) > 0 and {n.kind for n in ours} == {n.kind for n in theirs}:
        theirs = tuple(sorted(theirs, key=lambda one: [n.kind for n in ours].index(one.kind)))
        values = [spelt([n.value for n in side]) for side in (ours, theirs)]
        return " and ".join(n.kind for n in ours), values[0], values[1]
    written = [(spelt([n.value for n in found.numbers[side]]), spelt(found.instead[side])) for side in (0, 1)]
    side = min((side for side in (1, 0) if found.numbers[side]), key=lambda side: len("".join(written[side])))
    word = " and ".join(n.kind for n in found.numbers[side])
    here, there = written[side]
    return (word, here, there) if side == 0 else (word, there, here)


def _factors(one: Number, other: Number) -> tuple[str, str, str] | None:
    """Two factors in one word: what one side divides by, the other may multiply by."""
    kinds = {one.kind, other.kind}
    if len(kinds) == 1 or not kinds <= {*FACTORS}:
        return None
    values = [1 / n.value if n.kind == "divisor" else n.value for n in (one, other)]
    return ("attention scale" if "attention scale" in kinds else "factor"), f"{values[0]:.6g}", f"{values[1]:.6g}"
