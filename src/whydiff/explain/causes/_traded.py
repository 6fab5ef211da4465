"""State that stands in other places: modules that hold each other's tensors, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whydiff.explain.case import Case
from whydiff.explain.causes._differs import reading
from whydiff.explain.causes._remedy import copy_over, reachable
from whydiff.explain.causes._state import Difference, differences, interventions_of, site_of
from whydiff.records import Cause, Evidence, Leaf, Remedy, Verdict
from whydiff.report.words import listed

_CODES = ("ST001", "ST002")
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Traded:
    """Tensors of modules that hold each other's.

    Attributes:
        modules: their names, in the reference's order.
        differences: every tensor of them that differs.
        sources: name of a tensor → the name under which the reference has what the candidate holds there.
    """

    modules: tuple[str, ...]
    differences: tuple[Difference, ...]
    sources: tuple[tuple[str, str], ...]


def traded(case: Case) -> tuple[Traded, ...]:
    """Modules whose tensors have changed places: each of their tensors that differs is another one's, and none is lost."""
    return case.shared("traded", lambda: tuple(_traded(case)))


def left(case: Case, code: str) -> tuple[Difference, ...]:
    """Differing state of a cause that has not changed places."""
    moved = {one.name for group in traded(case) for one in group.differences}
    return tuple(one for one in differences(case, code) if one.name not in moved)


def _traded(case: Case) -> Iterator[Traded]:
    found = {one.name: one for code in _CODES for one in differences(case, code)}
    sources = {name: source for name, source in _sources(found) if source in found}
    while lost := set(sources) - set(sources.values()):  # what nobody holds any more was written over, not moved
        sources = {name: source for name, source in sources.items() if name not in lost}
        sources = {name: source for name, source in sources.items() if source in sources}
    groups: dict[frozenset[str], list[str]] = {}
    for circle in _circles(sources):
        groups.setdefault(frozenset(_stems(circle)), []).extend(circle)
    order = list(found)
    for stems, names in groups.items():
        names.sort(key=order.index)
        places = sorted(stems, key=lambda stem: next(n for n, name in enumerate(order) if name.startswith(stem)))
        yield Traded(tuple(places), tuple(found[n] for n in names), tuple((n, sources[n]) for n in names))


def _sources(found: dict[str, Difference]) -> Iterator[tuple[str, str]]:
    """(a tensor, the only one that the reference holds with the bits that the candidate has there)."""
    holders: dict[object, list[str]] = {}
    for name, one in found.items():
        holders.setdefault(_content(one.reference), []).append(name)
    for name, one in found.items():
        held = holders.get(_content(one.candidate), []) if one.candidate.fingerprint is not None else []
        if len(held) == 1 and held[0] != name:
            yield name, held[0]


def _content(leaf: Leaf) -> object:
    return leaf.spec.shape, leaf.spec.dtype, leaf.fingerprint


def _circles(sources: dict[str, str]) -> Iterator[list[str]]:
    """Tensors of which each holds the next one's."""
    seen: set[str] = set()
    for name in sources:
        circle = []
        while name not in seen:
            seen.add(name)
            circle.append(name)
            name = sources[name]
        if circle:
            yield circle


def _stems(circle: Sequence[str]) -> list[str]:
    """Names up to where they part from each other, seen from their ends: of ``0.a.weight`` and ``2.a.weight`` 0 and 2."""
    parts = [name.split(".") for name in circle]
    alike = 0
    while alike < min(map(len, parts)) - 1 and len({one[-1 - alike] for one in parts}) == 1:
        alike += 1
    return [".".join(one[: len(one) - alike]) for one in parts]


def _named(modules: Sequence[str]) -> str:
    """``modules 0 and 2``, ``layers.0, layers.1 and layers.2``; of many the first ones."""
    shown = modules if len(modules) <= _NAMED else (*modules[:_NAMED], f"{len(modules) - _NAMED} more")
    text = f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"modules {text}" if shown[0].isdigit() else text


def causes_of_trades(case: Case, code: str, name: str, *, parameters: bool) -> Iterator[Cause]:
    """One cause for all tensors of modules that hold each other's.

    Args:
        case: the pair of runs.
        code: of the cause.
        name: of the cause.
        parameters: of those that hold parameters, or of the others.
    """
    for group in traded(case):
        if any(one.reference.role == "parameter" for one in group.differences) is not parameters:
            continue
        pairs = [f"{name} is the reference's {source}" for name, source in group.sources]
        evidence = Evidence(
            f"bit for bit, of the candidate {listed(pairs)}",
            {"modules": list(group.modules), "sources": dict(group.sources)},
        )
        yield Cause(
            code=code,
            name=name,
            site=site_of(group.differences),
            verdict=Verdict.SEMANTIC,
            evidence=(evidence, *reading(case, group.differences)),
            remedy=Remedy(
                f"Give {_named(group.modules)} their own tensors: the order in which they are built or called, or the "
                "map of the checkpoint's keys, is another.",
                copy_over(case, reachable(case, group.differences)),
                undoes="either",
            ),
            interventions=interventions_of(group.differences),
            says=f"{_named(group.modules)} hold each other's tensors in the candidate",
        )
