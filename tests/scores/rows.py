"""What every score shares: rows that are kept as they come, so that a run can go on, and rates with their intervals."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whydiff.records import Diagnosis


@dataclass(frozen=True)
class Row:
    """One pair and what was said of it.

    Attributes:
        name: unique; a run that goes on leaves out what has a row.
        kind: which figure it counts for.
        right: whether it counts as solved.
        verdict: the verdict, or ``error``.
        causes: codes of what was confirmed (``ST001``) and located (``ST001@``).
        reason: the diagnosis' sentence, or the error.
        seconds: of wall time.
    """

    name: str
    kind: str
    right: bool
    verdict: str
    causes: tuple[str, ...]
    reason: str
    seconds: float
    more: dict[str, Any] = field(default_factory=dict)


def found(diagnosis: Diagnosis) -> tuple[str, ...]:
    """Causes that act and were confirmed or located."""
    marks = {"confirmed": "", "located": "@"}
    return tuple(f"{c.code}{marks[c.status]}" for c in diagnosis.causes if not c.inert and c.status in marks)


def timed(
    name: str,
    kind: str,
    work: Callable[[], Diagnosis],
    right: Callable[[Diagnosis], bool],
    more: dict[str, Any] | None = None,
) -> Row:
    """The row of one pair; an exception is a row as well, and never right."""
    begun = time.perf_counter()
    try:
        diagnosis = work()
    except Exception as error:  # noqa: BLE001 - the table shows it
        text = f"{type(error).__name__}: {error}"[:300]
        return Row(name, kind, False, "error", (), text, time.perf_counter() - begun, more or {})
    return Row(
        name=name,
        kind=kind,
        right=right(diagnosis),
        verdict=diagnosis.verdict.value,
        causes=found(diagnosis),
        reason=diagnosis.reason[:300],
        seconds=time.perf_counter() - begun,
        more=more or {},
    )


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a rate (Wilson 1927), 95 % by default."""
    if not of:
        return 0.0, 1.0
    rate, square = hits / of, z * z
    middle = (rate + square / (2 * of)) / (1 + square / of)
    half = z / (1 + square / of) * math.sqrt(rate * (1 - rate) / of + square / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(hits: int, of: int) -> str:
    """``hits of all (rate; 95 % interval)``."""
    low, high = wilson(hits, of)
    return f"{hits} of {of} ({hits / max(of, 1):.1%}; 95 % interval {low:.1%} to {high:.1%})"


def options(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every score has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", help="only pairs whose name contains one of these")
    parser.add_argument("--limit", type=int, default=0, help="at most so many rows of each kind")
    parser.add_argument("--json", type=Path, help="rows, one a line; a run goes on where the file ends")
    return parser


def known(file: Path | None) -> list[Row]:
    """The rows that a file holds."""
    if file is None or not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Row(**{**data, "causes": tuple(data["causes"])}) for data in map(json.loads, lines)]


def collect(jobs: Iterable[tuple[str, str, Callable[[], Row | None]]], given: argparse.Namespace) -> list[Row]:
    """Run what has no row yet and keep each row at once.

    Args:
        jobs: (name, kind, what makes the row; None: it is no pair).
        given: parsed `options`.
    """
    rows = known(given.json)
    done = {row.name for row in rows}
    counts = Counter(row.kind for row in rows)
    for name, kind, make in _chosen(jobs, given.names):
        if name in done or (given.limit and counts[kind] >= given.limit):
            continue
        row = make()
        if row is None:
            continue
        rows.append(row)
        counts[kind] += 1
        if given.json:
            with given.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        if not row.right:
            print(f"MISS {row.name}: {row.verdict} {' '.join(row.causes)} – {row.reason[:200]}", flush=True)
    return rows


def _chosen(
    jobs: Iterable[tuple[str, str, Callable[[], Row | None]]], names: list[str]
) -> Iterator[tuple[str, str, Callable[[], Row | None]]]:
    yield from (job for job in jobs if not names or any(name in job[0] for name in names))


def summary(rows: list[Row]) -> str:
    """Rates and verdicts by kind."""
    lines = []
    for kind in sorted({row.kind for row in rows}):
        part = [row for row in rows if row.kind == kind]
        verdicts = ", ".join(f"{word} {n}" for word, n in Counter(row.verdict for row in part).most_common())
        seconds = sorted(row.seconds for row in part)
        lines.append(f"{kind}: right {rate(sum(row.right for row in part), len(part))}")
        lines.append(f"  {verdicts}; median {seconds[len(seconds) // 2]:.2f} s, longest {seconds[-1]:.1f} s")
    return "\n".join(lines)
