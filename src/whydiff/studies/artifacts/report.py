"""The document of two trees of files, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from whydiff.records import Count
from whydiff.report.blocks import Block, Lines, Section, Table, Text, rest
from whydiff.report.words import count, number, percent, plain
from whydiff.studies.artifacts.records import ArtifactFile, CodeExplanation, Item, Status
from whydiff.studies.base import Study, headline

_ITEMS = 20
"""Rows of a table before the rest is counted (all of them with --verbose and in JSON)."""
_NAMES = 10


@dataclass(frozen=True, slots=True, repr=False)
class ArtifactComparison(Study):
    """Two trees of files, compared.

    Attributes:
        reference, candidate: paths or URLs of the two trees.
        status: ``identical``, ``within tolerance``, ``differs``; the most serious of all files.
        reason: one sentence.
        files: every file of both trees that is not identical, most material first.
        identical: how many files are.
        missing: only the reference has them; extra: only the candidate has them (relative paths).
        explanations: of changed codes.
        not_compared: what was left out, counted with reasons.
        bytes_read: of both trees together.
    """

    title: ClassVar[str] = "artifacts"
    reference: str
    candidate: str
    status: Status
    reason: str
    files: tuple[ArtifactFile, ...]
    identical: int
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    explanations: tuple[CodeExplanation, ...] = ()
    not_compared: tuple[Count, ...] = ()
    bytes_read: int = 0

    @property
    def word(self) -> str:
        """The status."""
        return self.status

    def answer(self) -> Lines:
        """The answer in short: status, the most material file, changed codes, how that file was read if not as its kind."""
        lines = [headline(self.status, self.reason)]
        if self.files:
            first = self.files[0]
            worst = first.items[0]
            lines.append(("where", f"{first.path}: {worst.name}: {worst.reason}"))
        lines += [("why", _told(one)) for one in self.explanations]
        if self.files and self.files[0].note:
            lines.append(("also", self.files[0].note))
        return tuple((label, plain(text)) for label, text in lines)

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """Integers and values apart from floats, changed codes, files on one side, what was not compared."""
        rows = [(file.path, item) for file in self.files for item in file.items]
        exact = [row for row in rows if row[1].kind != "float"]
        floats = [row for row in rows if row[1].kind == "float"]
        notes = [f"{file.path}: {file.note}" for file in self.files if file.note]
        return (
            Section(f"Integers, values and bytes ({len(exact)})", _exact(exact, verbose)),
            Section(f"Floats ({len(floats)})", _floats(floats, verbose)),
            Section("Changed codes", tuple(b for one in self.explanations for b in _codes(one))),
            Section(f"Only in the reference ({len(self.missing)})", _names(self.missing, verbose)),
            Section(f"Only in the candidate ({len(self.extra)})", _names(self.extra, verbose)),
            Section(
                "Not compared",
                tuple(
                    Text(plain(f"{c.count} {c.what}: {c.reason}, e.g. {', '.join(c.examples)}"))
                    for c in self.not_compared
                ),
            ),
            Section(
                "Notes",
                tuple(
                    Text(plain(note))
                    for note in (f"{count(self.identical, 'file')} identical; {self.bytes_read} bytes read", *notes)
                ),
            ),
        )


def _exact(rows: list[tuple[str, Item]], verbose: bool) -> tuple[Block, ...]:
    if not rows:
        return ()
    shown = rows if verbose else rows[:_ITEMS]
    table = Table(
        ("file", "name", "reference", "candidate", "equal", "max abs", "what"),
        tuple(
            (
                plain(path),
                plain(i.name),
                plain(i.reference) or "–",
                plain(i.candidate) or "–",
                _share(i),
                number(i.max_abs),
                plain(i.reason),
            )
            for path, i in shown
        ),
        numeric=("equal", "max abs"),
    )
    return (table, *rest(len(rows) - len(shown)))


def _floats(rows: list[tuple[str, Item]], verbose: bool) -> tuple[Block, ...]:
    if not rows:
        return ()
    shown = rows if verbose else rows[:_ITEMS]
    table = Table(
        ("file", "name", "tensor", "allclose", "atol / rtol", "equal", "mean abs", "max abs", "rel L2", "what"),
        tuple(
            (
                plain(path),
                plain(i.name),
                plain(_tensor(i)),
                _yes(i.allclose),
                f"{i.atol:g} / {i.rtol:g}",
                _share(i),
                number(i.mean_abs),
                number(i.max_abs),
                number(i.value("rel_l2")),
                plain(i.reason),
            )
            for path, i in shown
        ),
        numeric=("equal", "mean abs", "max abs", "rel L2"),
    )
    return (table, *rest(len(rows) - len(shown)))


def _tensor(item: Item) -> str:
    return item.reference if item.reference == item.candidate else f"{item.reference} ↔ {item.candidate}"


def _yes(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "no"


def _share(item: Item) -> str:
    return "–" if item.equal_share is None else percent(item.equal_share)


def _names(paths: tuple[str, ...], verbose: bool) -> tuple[Block, ...]:
    shown = paths if verbose else paths[:_NAMES]
    return (*(Text(plain(path)) for path in shown), *rest(len(paths) - len(shown)))


def _told(one: CodeExplanation) -> str:
    head = f"{one.changed} of {one.rows} codes in {one.codes} changed"
    if one.reason:
        return f"{head}; not explained: {one.reason}"
    return (
        f"{head}; {one.near_ties} of {one.examined} examined are near ties ({one.rule} of "
        f"{one.embeddings} with {one.codebook}, which gives {percent(one.evidence)} of the sampled codes)"
    )


def _codes(one: CodeExplanation) -> list[Block]:
    blocks: list[Block] = [Text(plain(_told(one)))]
    if one.typical_margin is not None:
        blocks.append(Text(f"margin between the two nearest rows, median: {number(one.typical_margin)}", 1))
    if one.examples:
        columns = ("row", "reference", "candidate", "margin", "scores moved", "rounding", "near tie")
        blocks.append(
            Table(
                columns,
                tuple(
                    (
                        str(c.row),
                        str(c.reference),
                        str(c.candidate),
                        number(c.margin),
                        number(c.moved),
                        number(c.rounding),
                        _yes(c.near_tie),
                    )
                    for c in one.examples
                ),
                numeric=columns[:-1],
            )
        )
    return blocks
