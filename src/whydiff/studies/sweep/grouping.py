"""Classes of sizes that agree, and ops that behave alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

from whydiff.report.words import ranges
from whydiff.studies.sweep.findings import OUTPUTS, Axis, Cell, Classes, Size

_NUMBERS = re.compile(r"(?<=[.\[])\d+(?=[.\]:])")


def pattern(site: str) -> str:
    """A site with its layer numbers left open: ``"encoder.layer.N.output.dense:addmm#0"``."""
    scope, colon, rest = site.partition(":")
    return _NUMBERS.sub("N", f"{scope}:")[:-1] + colon + rest.removesuffix(".output")


def along(size: Size, axis: Axis) -> str:
    """A size's place along the axis, as text."""
    return str(getattr(size, axis))


def elsewhere(size: Size, axis: Axis) -> tuple[tuple[str, object], ...]:
    """A size without the axis."""
    parts = (("batch", size.batch), ("length", size.length), ("layout", size.layout))
    return tuple((n, v) for n, v in parts if n != axis and v and v != "contiguous")


def classes(cells: Sequence[Cell], axis: Axis) -> tuple[Classes, ...]:
    """How sizes group for the outputs and for every pattern of ops, merged over settings that group alike."""
    found: dict[tuple[str, tuple[tuple[str, ...], ...]], tuple[dict[object, None], set[str]]] = {}
    settings: dict[object, list[Cell]] = {}
    for cell in cells:
        if cell.status != "failed":
            settings.setdefault(elsewhere(cell.size, axis), []).append(cell)
    for setting, members in settings.items():
        members.sort(key=lambda cell: cell.size)
        reference = along(members[0].against, axis)
        by_site: dict[str, dict[str, list[str]]] = {}
        outputs: dict[str, list[str]] = {}
        for cell in members:
            here = along(cell.size, axis)
            outputs.setdefault("" if cell.outputs_equal else cell.bits, []).append(here)
            for one in cell.found:
                by_site.setdefault(one.site, {}).setdefault(one.bits or here, []).append(here)
        everyone = [along(cell.size, axis) for cell in members]
        _add(found, OUTPUTS, _groups(reference, everyone, outputs), setting, OUTPUTS)
        for site, differing in by_site.items():
            _add(found, pattern(site), _groups(reference, everyone, differing), setting, site)
    return tuple(Classes(what, _where(list(at)), groups, len(sites)) for (what, groups), (at, sites) in found.items())


def _add(found: dict, what: str, groups: tuple[tuple[str, ...], ...], setting: object, site: str) -> None:  # type: ignore[type-arg]
    at, sites = found.setdefault((what, groups), ({}, set()))
    at[setting] = None
    sites.add(site)


def _groups(reference: str, everyone: Sequence[str], by_bits: dict[str, list[str]]) -> tuple[tuple[str, ...], ...]:
    differing = {size for bits, sizes in by_bits.items() if bits for size in sizes}
    first = dict.fromkeys([reference, *(size for size in everyone if size not in differing)])
    return (tuple(first), *(tuple(dict.fromkeys(sizes)) for bits, sizes in by_bits.items() if bits))


def _where(settings: list[object]) -> str:
    by_name: dict[str, list[object]] = {}
    for setting in settings:
        for name, value in setting:  # type: ignore[attr-defined]
            by_name.setdefault(name, []).append(value)
    return ", ".join(f"{name} {ranges(values)}" for name, values in by_name.items())


def representatives(cells: Sequence[Cell], limit: int) -> tuple[list[Cell], dict[Size, Size]]:
    """The smallest cell of every set of findings, at most ``limit``, and for each differing cell its own."""
    kinds: dict[object, Cell] = {}
    member: dict[Size, object] = {}
    for cell in sorted((c for c in cells if c.status == "differs"), key=lambda c: _work(c.size)):
        key = frozenset((pattern(f.site), f.kind) for f in cell.found)
        kinds.setdefault(key, cell)
        member[cell.size] = key
    chosen = dict(list(kinds.items())[:limit])
    return list(chosen.values()), {s: chosen[key].size for s, key in member.items() if key in chosen}


def _work(size: Size) -> tuple[int, Size]:
    return max(size.batch, 1) * max(size.length, 1), size
