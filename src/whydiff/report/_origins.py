"""The table of origins; the same origin in every layer is one row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from whydiff.records import Origin
from whydiff.report.blocks import Block, Cell, Table, Text
from whydiff.report.words import count, different, listed, note, number, plain, ranges, site

MOST = 20
"""Rows of the table unless verbose."""

_INDEX = re.compile(r"(?<![^./])\d+(?=[./]|$)")


@dataclass(frozen=True, slots=True)
class Group:
    """Origins that are alike in all but the indices in their scopes and the step."""

    pattern: str
    members: tuple[Origin, ...]

    @property
    def label(self) -> str:
        """The site itself, or the pattern with the indices that N stands for."""
        if len(self.members) == 1:
            return _name(self.members[0])
        found = [_INDEX.findall(origin.site.scope) for origin in self.members]
        first = ranges(int(indices[0]) for indices in found if indices)
        steps = {origin.site.step for origin in self.members}
        over = [f"N = {first}"] if first else []
        over += [f"steps {ranges(steps)}"] if len(steps) > 1 else []
        return f"{self.pattern} ({', '.join(over)})" if over else self.pattern


def groups(origins: Sequence[Origin]) -> tuple[Group, ...]:
    """Origins grouped by site pattern, kind, verdict and leaves, in order of first appearance."""
    found: dict[tuple[object, ...], list[Origin]] = {}
    for origin in origins:
        key = (_pattern(origin), origin.kind, origin.verdict, tuple(_INDEX.sub("N", n) for n in origin.leaves))
        found.setdefault(key, []).append(origin)
    return tuple(Group(str(key[0]), tuple(members)) for key, members in found.items())


def origin_blocks(origins: Sequence[Origin], verbose: bool) -> tuple[Block, ...]:
    """The table, what was folded or left off, and (verbose) every origin's region and evidence."""
    rows = groups(origins) if not verbose else tuple(Group(_name(o), (o,)) for o in origins)
    shown = rows if verbose else rows[:MOST]
    blocks: list[Block] = [
        Table(
            ("site", "times", "kind", "verdict", "max abs", "rel L2", "different", "leaves"),
            tuple(map(_row, shown)),
            numeric=("times", "max abs", "rel L2", "different"),
        )
    ]
    if any(len(group.members) > 1 for group in shown):
        blocks.append(Text("A row that stands for several places shows the largest value of each.", tone="dim"))
    if rest := rows[len(shown) :]:
        hidden = sum(len(group.members) for group in rest)
        blocks.append(Text(f"{count(hidden, 'more place')} in {count(len(rest), 'row')}; verbose shows them."))
    for group in shown:
        blocks.extend(_details(group, verbose))
    return tuple(blocks)


def _row(group: Group) -> tuple[Cell, ...]:
    first = group.members[0]
    widest = max(group.members, key=lambda o: _value(o, "different"))
    return (
        group.label,
        str(len(group.members)),
        first.kind,
        str(first.verdict),
        _figure(group, "max_abs"),
        _figure(group, "rel_l2"),
        different(widest.comparison),
        listed((plain(leaf) for leaf in first.leaves), 3),
    )


def _figure(group: Group, metric: str) -> str:
    values = [v for o in group.members if (v := o.comparison.value(metric)) is not None]
    # A NaN or infinity is the worst value there is; max() would depend on the order.
    strange = [v for v in values if v != v or v in (float("inf"), float("-inf"))]
    return number(strange[0] if strange else max(values, default=None))


def _value(origin: Origin, metric: str) -> float:
    value = origin.comparison.value(metric)
    return -1.0 if value is None else value


def _details(group: Group, verbose: bool) -> list[Block]:
    blocks: list[Block] = []
    for origin in group.members[: None if verbose else 1]:
        lines = [words] if (words := note(origin.comparison)) else []
        lines += [f"your line: {plain(origin.line)}"] if origin.line else []
        lines += [f"evidence: {plain(e.statement)}" for e in origin.evidence]
        if origin.region:
            lines.append(f"region: {listed((site(s) for s in origin.region), len(origin.region) if verbose else 4)}")
        if lines:
            blocks.append(Text(_name(origin)))
            blocks.extend(Text(line, depth=1) for line in lines)
    return blocks


def _name(origin: Origin) -> str:
    here, there = site(origin.site), site(origin.candidate_site)
    return here if here == there else f"{here} ↔ {there}"


def _pattern(origin: Origin) -> str:
    """The name with N for every index of a scope, and without the step; the indices of slots and occurrences stay."""
    here, there = (replace(s, scope=_INDEX.sub("N", s.scope), step=0) for s in (origin.site, origin.candidate_site))
    return _name(replace(origin, site=here, candidate_site=there))
