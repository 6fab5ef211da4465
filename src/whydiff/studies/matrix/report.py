"""The document of a matrix of environments, and how it is shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from whydiff.records import STANDING, Verdict
from whydiff.report.answer import MEANING
from whydiff.report.blocks import Block, Lines, Section, Table, Text
from whydiff.report.words import clause, number, outcome, plain
from whydiff.studies.base import Study
from whydiff.studies.matrix.bisect import INTERPRETER
from whydiff.studies.matrix.records import Cell, Pairing


@dataclass(frozen=True, slots=True, repr=False)
class Matrix(Study):
    """One program in several environments.

    Attributes:
        target: what was run.
        cells: in the order of the environments; the first is the reference.
        pairings: every compared pair.
        notes: sentences worth reading.
    """

    title: ClassVar[str] = "matrix"
    target: str
    cells: tuple[Cell, ...]
    pairings: tuple[Pairing, ...]
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The most severe verdict of the pairs; one that was not compared is ``inconclusive``."""
        found = [pairing.judged or Verdict.INCONCLUSIVE for pairing in self.pairings]
        return str(max(found, key=lambda one: one.severity, default=Verdict.INCONCLUSIVE))

    def answer(self) -> Lines:
        """The five sentences that every comparison is answered with, of the gravest pair; then what else was run."""
        worst = max(self.pairings, key=lambda p: (p.judged or Verdict.INCONCLUSIVE).severity, default=None)
        lines = _NO_PAIR if worst is None else _five(self, worst)
        verdicts = Counter(pairing.verdict for pairing in self.pairings)
        said = [] if worst is None or not worst.responsible else _inside(worst)
        said += [
            f"{word} in {n} of {len(self.pairings)} pairs" for word, n in verdicts.items() if len(self.pairings) > 1
        ]
        said += [f"{cell.setting.variables_text}: {cell.status}" for cell in self.cells if cell.status != "done"]
        lines = (*lines, *([("also", "; ".join(said))] if said else []))
        return tuple((label, plain(text)) for label, text in lines)

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """Differences of environment first, then environments × verdict, experiments and notes."""
        pairs = [Text(plain(sentence)) for p in self.pairings for sentence in _experiments(p)]
        return (
            Section("What differs between the environments (reference: 0)", _changes(self)),
            Section("Environments", (_cells(self), *_failures(self))),
            Section("Pairs", (_pairs(self),)),
            Section("Which difference is responsible (each line is an experiment)", tuple(pairs)),
            Section("Notes", tuple(Text(plain(note)) for note in self.notes)),
        )


_NO_PAIR: Lines = (
    ("", "INCONCLUSIVE: no two environments were compared"),
    ("where", "nothing was compared"),
    ("effect", "not known"),
    ("proof", "no experiment was made"),
    ("fix", "name another environment with --env or --python"),
)


def _inside(pair: Pairing) -> list[str]:
    """What the comparison of the numbers names, where the first line is about the environment."""
    codes = {cause.code for cause in pair.causes}
    found = [
        f"inside, {clause(c['says'] or c['name'])} ({c['code']}, {STANDING[c['status']]})"
        for c in pair.diagnosis.get("causes", ())
        if c["status"] in STANDING and c["code"] not in codes and not c["inert"]
    ]
    return found[:1]


def _five(matrix: Matrix, pair: Pairing) -> Lines:
    """The answer about one pair: what the comparison of its numbers says, and which difference is responsible for them."""
    told = {str(label): str(text) for label, text in pair.diagnosis.get("answer", {}).items() if isinstance(text, str)}
    here = " against ".join(matrix.cells[n].setting.variables_text for n in (pair.candidate, pair.reference))
    if not told and pair.judged is None:
        told = {
            "headline": f"INCONCLUSIVE: {here} could not be compared",
            "where": "nothing was compared",
            "effect": "not known",
            "proof": "no experiment was made",
            "fix": "run the target alone in the environment that failed (-v shows how)",
        }
    elif not told:
        told = {
            "headline": f"{matrix.word.upper()}: {MEANING[pair.judged or Verdict.INCONCLUSIVE]}",
            "where": "nowhere",
            "effect": "none: the outputs are bit-equal",
            "proof": "every recorded value was compared bit for bit",
            "fix": "nothing to do",
        }
    found = [] if pair.judged is Verdict.IDENTICAL else list(pair.responsible)
    if found:
        proven = [cause for cause in pair.causes if cause.status == "confirmed"]
        changed = " and ".join(one.difference for one in found)
        standing = f", {STANDING['confirmed']}" if len(proven) == len(pair.causes) else ""
        names = " and ".join(one.name for one in found)
        alike = "use one interpreter, or the same versions" if names == INTERPRETER else f"give {names} one value"
        tried = " (tried: the bits are then the reference's)" if standing else " (untried)"
        told["headline"] = f"{str(pair.verdict).upper()}{standing}: {changed} changes the numbers ({_code(pair)})"
        told["proof"] = "; ".join(
            f"{f'{one.name}: ' if len(found) > 1 else ''}{_proof(one.alone, one.without)}" for one in found
        )
        told["fix"] = f"{alike} in both environments{tried}"
    return tuple((label, told[label or "headline"]) for label in ("", "where", "effect", "proof", "fix"))


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
    columns = ("pair", "verdict", "places", "max abs", "mean abs", "cause", "reason")
    return Table(columns, tuple(rows), numeric=("places", "max abs", "mean abs"))


def _experiments(pairing: Pairing) -> list[str]:
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
