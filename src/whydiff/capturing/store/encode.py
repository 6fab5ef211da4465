"""Records to index lines. A line is the CRC-32 of its JSON as 8 hex digits, a space, the JSON, a newline."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from whydiff.capturing.store import strict
from whydiff.errors import CaptureError
from whydiff.records import Call, Event, Fingerprint, Kind, Leaf, LeafRole, Phase, Site, TensorSpec

KINDS, ROLES, PHASES = frozenset(get_args(Kind)), frozenset(get_args(LeafRole)), frozenset(get_args(Phase))


def line(value: Any) -> bytes:
    """One index line of JSON-able data.

    Raises:
        CaptureError: the data holds what JSON cannot carry.
    """
    try:
        text = strict.to_text(value).encode("ascii")
    except (TypeError, ValueError) as error:
        raise CaptureError("A record cannot be written to a trace.", actual=f"{error}: {value!r:.200}") from error
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _one_of(value: str, allowed: frozenset[str], where: object) -> str:
    if value not in allowed:
        raise CaptureError(
            "A record has a word that traces do not know.",
            where=str(where),
            actual=repr(value),
            expected=", ".join(sorted(allowed)),
        )
    return value


def _fingerprint(fingerprint: Fingerprint | None) -> list[Any] | None:
    if fingerprint is None:
        return None
    low, high = fingerprint.lanes
    lanes = f"{low:016x}{high:016x}"
    if len(lanes) != 32 or low < 0 or high < 0:
        raise CaptureError("A fingerprint's lane is no unsigned 64-bit integer.", actual=str(fingerprint.lanes))
    if fingerprint.covers == "content":
        return [lanes, fingerprint.nbytes]
    return [lanes, fingerprint.nbytes, fingerprint.covers]


class IndexEncoder:
    """Turns records into lines; strings and specs are written once, in tables, before their first use."""

    def __init__(self) -> None:
        self._strings: dict[str, int] = {}
        self._specs: dict[TensorSpec, int] = {}
        self._new_strings: list[str] = []
        self._new_specs: list[list[Any]] = []

    @property
    def tables(self) -> tuple[int, int]:
        """How many strings and specs were written."""
        return len(self._strings), len(self._specs)

    def forget(self, strings: int, specs: int) -> None:
        """Go back to what `tables` said before: what came after it was not written after all."""
        for table, kept in ((self._strings, strings), (self._specs, specs)):
            while len(table) > kept:
                table.popitem()
        self._new_strings, self._new_specs = [], []

    def _string(self, text: str) -> int:
        number = self._strings.get(text)
        if number is None:
            number = self._strings[text] = len(self._strings)
            self._new_strings.append(text)
        return number

    def _spec(self, spec: TensorSpec) -> int:
        number = self._specs.get(spec)
        if number is None:
            number = self._specs[spec] = len(self._specs)
            strings = self._string(spec.dtype), self._string(spec.device)
            self._new_specs.append([list(spec.shape), *strings, list(spec.strides), spec.offset])
        return number

    def _site(self, site: Site) -> list[Any]:
        _one_of(site.phase, PHASES, site)
        scope, op = self._string(site.scope), self._string(site.op)
        return [scope, op, self._string(site.phase), site.step, site.rank, site.occurrence]

    def _event(self, event: Event, home: Site) -> list[Any]:
        site = event.site
        raw = [
            self._string(site.slot),
            self._spec(event.spec),
            event.storage,
            event.producer,
            _fingerprint(event.fingerprint),
            self._string(event.skipped),
            self._string(event.payload),
        ]
        same = site.occurrence == home.occurrence and site.scope == home.scope and site.op == home.op
        if not (same and site.phase == home.phase and site.step == home.step and site.rank == home.rank):
            raw.append(self._site(site))
        return raw

    def _call(self, call: Call) -> list[Any]:
        home = call.site
        if home.slot:
            raise CaptureError("A call's site names a slot.", where=str(home), expected="an empty slot")
        return [
            "call",
            call.index,
            self._site(home),
            self._string(call.target),
            _one_of(call.kind, KINDS, home),
            [self._event(event, home) for event in call.reads],
            [self._event(event, home) for event in call.writes],
            strict.encode(call.arguments),
            list(call.mutates),
            call.context,
            self._string(call.rng),
            self._string(call.source),
        ]

    def _leaf(self, leaf: Leaf) -> list[Any]:
        return [
            "leaf",
            leaf.storage,
            _one_of(leaf.role, ROLES, leaf.name),
            leaf.name,
            self._spec(leaf.spec),
            _fingerprint(leaf.fingerprint),
            self._string(leaf.payload),
            self._string(leaf.skipped),
        ]

    def _with_tables(self, rows: Iterable[list[Any]]) -> bytes:
        lines = [line(row) for row in rows]  # first: encoding the rows fills the tables
        tables = []
        if self._new_strings:
            tables.append(line(["strings", self._new_strings]))
            self._new_strings = []
        if self._new_specs:
            tables.append(line(["specs", self._new_specs]))
            self._new_specs = []
        return b"".join(tables + lines)

    def calls(self, calls: Iterable[Call]) -> bytes:
        """Lines of calls, after the table entries they need."""
        return self._with_tables(self._call(call) for call in calls)

    def leaves(self, leaves: Iterable[Leaf]) -> bytes:
        """Lines of leaves, after the table entries they need."""
        return self._with_tables(self._leaf(leaf) for leaf in leaves)

    def contexts(self, contexts: Iterable[Mapping[str, Any]]) -> bytes:
        """Lines of contexts."""
        return self._with_tables(["context", strict.encode(dict(context))] for context in contexts)
