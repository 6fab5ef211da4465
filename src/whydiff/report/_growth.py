"""The table of the difference by depth, one row per layer, long ones summarised and counted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from itertools import groupby

from whydiff.records import Growth
from whydiff.report.blocks import Bar, Block, Cell, Table, Text
from whydiff.report.words import count, different, note, number, plain, site

LONGEST = 40
"""Rows of the summarised table; a screenful on common terminals."""


@dataclass(frozen=True, slots=True)
class Depth:
    """One row: the last recorded value of a layer, or a run of layers that all agree."""

    label: str
    growth: Growth
    sites: int
    until: str = ""


def layer(growth: Growth) -> str:
    """The scope up to its first index (``model.layers.3`` of ``model.layers.3.mlp``), else the whole site."""
    found = re.match(r"(.*?(?:^|[./])\d+)(?:[./]|$)", growth.site.scope)
    if found is None:
        return site(growth.site)
    rest = str(replace(growth.site, scope="", op="", occurrence=0, slot="")).removeprefix(":#0")
    return plain(found[1] + rest)


def depths(growth: tuple[Growth, ...]) -> tuple[Depth, ...]:
    """One row per layer in execution order: the layer's own output if recorded, else its last value.

    Neighbouring rows that agree are one row that says how many sites it stands for.
    """
    rows: list[Depth] = []
    for label, members in groupby(growth, key=layer):
        values = list(members)
        own = [g for g in values if plain(g.site.scope) == label]
        rows.append(Depth(label, (own or values)[-1], len(values)))
    merged: list[Depth] = []
    for row in rows:
        last = merged[-1] if merged else None
        if last and last.growth.comparison.status == row.growth.comparison.status == "agrees":
            merged[-1] = replace(last, sites=last.sites + row.sites, until=row.label)
        else:
            merged.append(row)
    return tuple(merged)


def growth_blocks(growth: tuple[Growth, ...], verbose: bool) -> tuple[Block, ...]:
    """The table with a bar of the mean error (linear, relative to the largest finite one)."""
    rows = depths(growth)
    chosen = range(len(rows))
    left: tuple[Block, ...] = ()
    if len(rows) > LONGEST and not verbose:
        # Evenly spread, with the first and the last row.
        picked = sorted({round(i * (len(rows) - 1) / (LONGEST - 1)) for i in range(LONGEST)})
        left = (Text(f"{len(picked)} of {count(len(rows), 'row')} shown; verbose shows all.", tone="dim"),)
        shown = [rows[i] for i in picked]
    else:
        shown = [rows[i] for i in chosen]
    means = [row.growth.comparison.value("mean_abs") or 0.0 for row in rows]
    largest = max((m for m in means if math.isfinite(m)), default=0.0)
    cells = [_row(row, largest, verbose) for row in shown]
    columns = ["where", "sites", "mean abs", "max abs", "different", "", "note"]
    if not any(row[-1] for row in cells):
        columns, cells = columns[:-1], [row[:-1] for row in cells]
    table = Table(tuple(columns), tuple(cells), numeric=("sites", "mean abs", "max abs", "different"))
    return (table, *left)


def _row(depth: Depth, largest: float, verbose: bool) -> tuple[Cell, ...]:
    compared = depth.growth.comparison
    label = f"{depth.label} … {depth.until}" if depth.until else depth.label
    mean = compared.value("mean_abs")
    if compared.status == "agrees":
        return (label, str(depth.sites), "0", "0", "0", "agrees", note(compared))
    # Beside numbers the reason mostly repeats the percentage in every row; without them it is all there is.
    words = note(compared if verbose or mean is None else replace(compared, reason=""))
    bar: Cell = ""
    if mean is not None and largest:
        bar = Bar(min(mean / largest, 1.0) if math.isfinite(mean) else 1.0)
    figures = (number(mean), number(compared.value("max_abs")), different(compared))
    return (label, str(depth.sites), *figures, bar, words)
