"""The comparison of decoding as a document: its answer, and a table of tokens for every way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar

from whydiff.records import Environment, Verdict
from whydiff.report.blocks import Block, Code, Lines, Section, Table, Text, rest
from whydiff.report.json import encode
from whydiff.report.proof import fix
from whydiff.report.words import number, percent, plain
from whydiff.studies.base import Study, headline
from whydiff.studies.decoding.records import Token, Way

MOST_ROWS = 32
_COLUMNS = ("position", "call", "token", "changed", "max abs", "D32", "D64", "margin", "first choice", "verdict")
_WHY = {
    Verdict.IDENTICAL: "nothing differs",
    Verdict.ROUNDING: "calls of other lengths: kernels add the same terms in another order (SH002)",
}
_DO = {
    Verdict.IDENTICAL: "nothing",
    Verdict.ROUNDING: "accept it; whydiff sweep --length names the ops, and tries what makes them agree",
}
_LIFTED = "every position was carried out again in float32 and in float64"


@dataclass(frozen=True, slots=True, repr=False)
class Decoding(Study):
    """Every way against one pass.

    Attributes:
        ways: those that the model's own cache makes first, then the caller's.
        verdict, reason: the most severe one of the ways.
        environment: where it ran.
    """

    title: ClassVar[str] = "decoding"
    ways: tuple[Way, ...]
    verdict: Verdict
    reason: str
    environment: Environment = field(default_factory=Environment)

    def way(self, name: str) -> Way:
        """A way by its name.

        Raises:
            KeyError: there is none.
        """
        return {way.name: way for way in self.ways}[name]

    @property
    def word(self) -> str:
        """The verdict."""
        return str(self.verdict)

    def fields(self) -> dict[str, Any]:
        """The fields, and of every token whether the first choice is another one."""
        document: dict[str, Any] = encode(self)
        for way, held in zip(document["ways"], self.ways, strict=True):
            for token, one in zip(way["tokens"], held.tokens, strict=True):
                token["flips"] = one.flips
        return document

    def answer(self) -> Lines:
        """The answer in five labelled sentences."""
        causes = [(way, cause) for way in self.ways for cause in way.causes]
        why = "; ".join(dict.fromkeys(f"{c.code} {c.name} ({c.status}, {way.name})" for way, c in causes))
        shown_here = [c for _, c in causes if c.status in ("confirmed", "located")]
        proof = next((e.outcome for c in shown_here for e in c.experiments if e.status == "confirmed"), "")
        do = next((fix(c) for c in shown_here if c.remedy is not None), "")
        where = "; ".join(f"{way.name}: {_runs(way.tokens)}" for way in self.ways)
        shown = "look at the first position above and at what its call was given: positions, mask, cache"
        return (
            headline(self.word, self.reason),
            ("where", plain(where)),
            ("why", plain(why or _WHY.get(self.verdict, "no known cause fits"))),
            ("proof", plain(proof or (_LIFTED if self.verdict in _WHY else "no experiment decided"))),
            ("fix", plain(do or _DO.get(self.verdict, shown))),
        )

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """One table per way, then causes, notes and what was not compared."""
        found = []
        for way in self.ways:
            pieces = f" ({len(way.pieces)} calls)" if way.pieces else ""
            title = plain(f"{way.name}{pieces}: {way.verdict}")
            found.append(Section(title, (Text(plain(way.reason)), *_table(way, verbose))))
        lines = [Text(plain(line)) for way in self.ways for line in _causes(way)]
        codes = dict.fromkeys(c.remedy.code for w in self.ways for c in w.causes if c.remedy and c.remedy.code)
        notes = dict.fromkeys(plain(f"{way.name}: {note}") for way in self.ways for note in way.notes)
        counts = dict.fromkeys(
            plain(f"{one.what}: {one.reason} ({one.count})") for way in self.ways for one in way.not_compared
        )
        return (
            *found,
            Section("Causes", (*lines, *(Code(code) for code in codes))),
            Section("Notes", tuple(map(Text, notes))),
            Section("Not compared", tuple(map(Text, counts))),
        )


def _causes(way: Way) -> list[str]:
    """One line for each cause and status, with its first site."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for cause in way.causes:
        alike.setdefault((cause.code, cause.name, cause.status), []).append(cause.site)
    return [
        f"{way.name} (against {way.against}): {code} {name} at {sites[0]} – {status}"
        + (f", and at {len(sites) - 1} more sites" if len(sites) > 1 else "")
        for (code, name, status), sites in alike.items()
    ]


def _table(way: Way, verbose: bool) -> tuple[Block, ...]:
    if not way.tokens:
        return ()
    shown = way.tokens if verbose else _chosen(way.tokens)
    many = len({token.sequence for token in way.tokens}) > 1
    rows = tuple(
        (
            (f"{t.sequence}:{t.position}" if many else str(t.position)),
            str(t.piece) if t.piece >= 0 else "–",
            str(t.token),
            percent(t.different),
            number(t.max_abs),
            number(t.single),
            number(t.double),
            number(t.margin),
            f"{t.first[0]} → {t.first[1]}" if t.flips else str(t.first[0]),
            str(t.verdict),
        )
        for t in shown
    )
    return (Table(_COLUMNS, rows, _COLUMNS[:-2]), *rest(len(way.tokens) - len(shown), "positions"))


def _chosen(tokens: Sequence[Token]) -> list[Token]:
    """All of a short text; of a long one the flips, where the verdict changes, and an even spread."""
    if len(tokens) <= MOST_ROWS:
        return list(tokens)
    edges = [n for n in range(1, len(tokens)) if tokens[n].verdict is not tokens[n - 1].verdict]
    wanted = [n for n, token in enumerate(tokens) if token.flips][: MOST_ROWS // 2] + edges[: MOST_ROWS // 4]
    room = MOST_ROWS - len(set(wanted))
    spread = [round(n * (len(tokens) - 1) / (room - 1)) for n in range(room)]
    return [tokens[n] for n in sorted({*wanted, *spread})]


def _runs(tokens: Sequence[Token]) -> str:
    """``identical at 0–5, rounding at 6–11``; only the first sequence's runs, if there are several."""
    first = [token for token in tokens if token.sequence == tokens[0].sequence] if tokens else []
    parts = []
    for verdict, run in groupby(first, key=lambda token: token.verdict):
        held = list(run)
        low, high = held[0].position, held[-1].position
        parts.append(f"{verdict} at {low}" + (f"–{high}" if high > low else ""))
    shown = ", ".join(parts[:6]) + (f" and {len(parts) - 6} more runs" if len(parts) > 6 else "")
    return shown + (" (sequence 0)" if len(first) < len(tokens) else "") if shown else "not compared"
