"""The matrix report as labelled lines and sections."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from whydiff.cli._show import status
from whydiff.records import Verdict
from whydiff.report._answer import outcome
from whydiff.report.blocks import Block, Section, Table, Text
from whydiff.report.words import number, plain

if TYPE_CHECKING:
    from whydiff.studies.matrix import Cell, Matrix, Pairing

Labelled = tuple[tuple[str, str], ...]


def matrix_status(matrix: Matrix, allow: Verdict) -> int:
    """0 if every pair was compared and is no worse than allowed; 1 otherwise."""
    words = {verdict.value for verdict in Verdict}
    bad = [p for p in matrix.pairings if p.verdict not in words or status(Verdict(p.verdict), allow)]
    return 1 if bad else 0


def matrix_lines(matrix: Matrix) -> Labelled:
    """The answer in four lines: verdicts, environments that failed, what is responsible, where."""
    verdicts = Counter(pairing.verdict for pairing in matrix.pairings)
    lines = [("verdict", ", ".join(f"{word} in {n} of {len(matrix.pairings)} pairs" for word, n in verdicts.items()))]
    failed = [cell for cell in matrix.cells if cell.status != "done"]
    if failed:
        lines.append(("failed", "; ".join(f"{cell.setting}: {cell.status}" for cell in failed)))
    why = [
        f"{_code(p)} {one.difference} ({_proof(one.alone, one.without)})"
        for p in matrix.pairings
        for one in p.responsible
    ]
    lines.append(("why", "; ".join(dict.fromkeys(why)) or "no difference of environment changes the numbers"))
    worst = max(matrix.pairings, key=lambda p: p.origins or 0, default=None)
    where = "nowhere"
    if worst is not None and worst.origins:
        where = f"first of {worst.origins} origins: {worst.first_origin}"
    lines.append(("where", where))
    return tuple((label, plain(text)) for label, text in lines)


def matrix_sections(matrix: Matrix) -> tuple[Section, ...]:
    """Differences of environment first, then environments × verdict, experiments and notes."""
    pairs = [Text(plain(sentence)) for p in matrix.pairings for sentence in _experiments(matrix, p)]
    return (
        Section("What differs between the environments (reference: 0)", _changes(matrix)),
        Section("Environments", (_cells(matrix), *_failures(matrix))),
        Section("Pairs", (_pairs(matrix),)),
        Section("Which difference is responsible (each line is an experiment)", tuple(pairs)),
        Section("Notes", tuple(Text(plain(note)) for note in matrix.notes)),
    )


def _changes(matrix: Matrix) -> tuple[Block, ...]:
    done = [p for p in matrix.pairings if p.reference == 0]
    names = list(dict.fromkeys(where for p in done for where, _, _ in p.changes))
    if not names:
        return (Text("Nothing: the same versions, hardware, flags and variables everywhere."),)
    rows = []
    for name in names:
        ours = next(o for p in done for where, o, _ in p.changes if where == name)
        others = [next((t for where, _, t in p.changes if where == name), "=") for p in done]
        rows.append((name, plain(ours), *(plain(text) for text in others)))
    return (Table(("where", "0", *(str(p.candidate) for p in done)), tuple(rows)),)


def _cells(matrix: Matrix) -> Table:
    rows = tuple((str(i), *_cell(cell)) for i, cell in enumerate(matrix.cells))
    return Table(("#", "interpreter", "variables", "torch", "instructions", "threads", "status"), rows)


def _cell(cell: Cell) -> tuple[str, ...]:
    seen = cell.environment
    again = ", from an earlier run" if cell.resumed else ""
    repeats = ", DIFFERS FROM ITSELF" if cell.deterministic is False else ""
    return (
        plain(cell.setting.python),
        plain(cell.setting.variables_text),
        seen.versions.get("torch", "–"),
        seen.hardware.get("cpu_capability", "–"),
        str(seen.flags.get("threads", "–")),
        f"{cell.status}{again}{repeats}",
    )


def _failures(matrix: Matrix) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for index, cell in enumerate(matrix.cells):
        if cell.status != "done":
            blocks.append(Text(f"{index}: {cell.status}", tone="bad"))
            blocks += [Text(plain(line), 1) for line in cell.note.splitlines()]
    return tuple(blocks)


def _pairs(matrix: Matrix) -> Table:
    rows = []
    for p in matrix.pairings:
        figures = ("–" if value is None else number(value) for value in (p.max_abs, p.mean_abs))
        codes = ", ".join(dict.fromkeys(f"{c.code} {c.name}" for c in p.causes if c.status == "confirmed"))
        origins = "–" if p.origins is None else str(p.origins)
        rows.append((f"{p.reference} ↔ {p.candidate}", p.verdict, origins, *figures, codes or "–", plain(p.reason)))
    columns = ("pair", "verdict", "origins", "max abs", "mean abs", "cause", "reason")
    return Table(columns, tuple(rows), numeric=("origins", "max abs", "mean abs"))


def _experiments(matrix: Matrix, pairing: Pairing) -> list[str]:
    pair = f"{pairing.reference} ↔ {pairing.candidate}"
    told = [f"{pair}: {cause.code} {outcome(e)}" for cause in pairing.causes for e in cause.experiments]
    if pairing.tried[0]:
        told.append(
            f"{pair}: {len(pairing.responsible)} of {pairing.tried[0]} differences responsible, found with "
            f"{pairing.tried[1]} mixed environments"
        )
    return told


def _code(pairing: Pairing) -> str:
    return "/".join(dict.fromkeys(cause.code for cause in pairing.causes))


_ALONE = {
    "reproduces": "alone it gives the candidate's bits",
    "differs": "alone it changes bits",
    "agrees": "alone it changes nothing",
}
_WITHOUT = {"agrees": "without it the bits are the reference's", "differs": "without it bits still differ", "": ""}


def _proof(alone: str, without: str) -> str:
    return "; ".join(text for text in (_ALONE[alone], _WITHOUT[without]) if text)
