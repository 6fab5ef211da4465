"""Activations inside of a region or of several places, with whatever else is wrong beside them.

Where a framework spells an activation out in ops of its own, two that differ share some of these ops, and what else
differs lies among them. In float64 the value that both sides apply them to is found, and what each side makes of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from whydiff.explain.activations import ACTIVATIONS, COMPUTE
from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.causes._telling import of_numbers, told_by
from whydiff.explain.causes._values import Array, distance
from whydiff.explain.causes._view import Finding, NarrowedView, View
from whydiff.explain.local_test import GIVEN, Examined, Inside, Node
from whydiff.numbers.tolerance import HYPOTHESIS_MARGIN, SAME_FUNCTION, UNIT_ROUNDOFF

_CODE = "FO001"
_LEVEL = SAME_FUNCTION * UNIT_ROUNDOFF["float32"]
_FEW, _ROOM = 64, 4
_MOST = 12
"""Values that both sides have and that are looked at (a size, not a tolerance)."""


def activation(x: Array, y: Array) -> tuple[str, float, str, float] | None:
    """(activation, distance, runner-up, its distance) if y is one activation of x in float64."""
    return activations(x, [y])[0]


def activations(x: Array, results: Sequence[Array]) -> list[tuple[str, float, str, float] | None]:
    """`activation` of every one of several results of the same values."""
    found: list[tuple[str, float, str, float] | None] = [None for _ in results]
    with np.errstate(over="ignore", invalid="ignore"):
        near = _near(x, results)
        tried: list[list[tuple[float, str]]] = [[] for _ in near]
        for name, form in ACTIVATIONS.items() if near else ():
            made = form(x)
            for at, distances in zip(near, tried, strict=True):
                distances.append((distance(made, results[at]), name))
    for at, distances in zip(near, tried, strict=True):
        found[at] = _only(sorted(distances))
    return found


def _near(x: Array, results: Sequence[Array]) -> list[int]:
    """Positions of the results that may be an activation: some of their elements alone do not rule it out.

    Where these are too far from all activations, so are all together; the room is for what `distance` leaves out.
    """
    alike = [at for at, y in enumerate(results) if y.shape == x.shape]
    few = slice(None, None, max(x.size // _FEW, 1))
    forms = [form(x.reshape(-1)[few]) for form in ACTIVATIONS.values()] if alike else []
    found = []
    for at in alike:
        y = results[at].reshape(-1)
        most = (_ROOM * _LEVEL) ** 2 * float(np.square(y).sum())
        if any(not np.square(made - y[few]).sum() > most for made in forms):  # what is not a number decides nothing
            found.append(at)
    return found


def _only(found: Sequence[tuple[float, str]]) -> tuple[str, float, str, float] | None:
    (best, name), (next_best, runner_up) = found[:2]
    if best > _LEVEL or next_best <= max(_LEVEL, HYPOTHESIS_MARGIN * best):
        return None  # it is none, or these inputs do not tell which
    return name, best, runner_up, next_best


def with_activations(rules: Sequence[CauseRule], view: View, told: Sequence[Finding]) -> tuple[Finding, ...]:
    """That two activations differ, and what explains all that is left then; nothing if more is left.

    Args:
        rules: those that know their mistake, in their order.
        view: a place where each side has ops, or several together.
        told: what was found at one of the places: another number in the code may lead to the activation.
    """
    computed = any(item.name == COMPUTE for one in told for item in one.interventions)  # one is known already
    if computed or not view.other_function or not all(view.seen.calls):
        return ()
    known_mistakes = (one for one in told if one.interventions and not one.general)
    before = [one for one in known_mistakes if all(i.name in GIVEN for i in one.interventions)]
    for first in (None, *before):
        known = view.sides.inside(() if first is None else first.interventions)
        found = () if known is None else _among(rules, view, known)
        if found:
            return found if first is None else (first, *found)
    return ()


def _among(rules: Sequence[CauseRule], view: View, known: Inside) -> tuple[Finding, ...]:
    pairs = sorted(_pairs(known), key=lambda pair: -len(pair[0].above) - len(pair[1].above))  # not a part of one
    rests = [(a, b, known.behind(a, b)) for a, b in pairs]
    for a, b, rest in sorted(rests, key=lambda one: one[2] is not None):
        first = _told([rule for rule in rules if rule.code == _CODE], view, known.up_to(a, b))
        if first is not None and rest is None:
            return (first,)
        second = _told(rules, view, rest, also=of_numbers) if rest is not None else None
        if first is not None and second is not None:
            return first, second
    return ()


def _told(
    rules: Sequence[CauseRule],
    view: View,
    seen: Examined,
    also: Callable[[Sequence[CauseRule], View], Iterator[Finding | None]] | None = None,
) -> Finding | None:
    part = NarrowedView(view.case, view.origin, seen, view)
    said = (told_by(rule, rule.explain, part) for rule in rules)
    more = also(rules, part) if also is not None else iter(())
    return next((one for one in itertools.chain(said, more) if one is not None and one.interventions), None)


def _pairs(known: Inside) -> Iterator[tuple[Node, Node]]:
    """Values of one side alone each that are activations of one value that both sides have."""
    sources = list({id(a): a for a, _ in known.equal}.values())[:_MOST]
    for x in sources:
        made = [_made_of(x, known.lone(side)) for side in (0, 1)]
        for (a, ours), (b, theirs) in itertools.product(*made):
            if ours != theirs:
                yield a, b


def _made_of(x: Node, nodes: Iterable[Node]) -> list[tuple[Node, str]]:
    """Those that are an activation of a value, with its name."""
    asked = [node for node in nodes if node.given is None and node.array.size == x.array.size]
    found = activations(x.array.reshape(-1), [node.array.reshape(-1) for node in asked])
    return [(node, one[0]) for node, one in zip(asked, found, strict=True) if one is not None]
