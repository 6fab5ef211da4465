"""Index lines to records, every value checked. Counterpart of `whydiff.capturing.store.encode`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeVar

from whydiff.capturing.store import strict
from whydiff.capturing.store.dtypes import carries
from whydiff.capturing.store.encode import KINDS, PHASES, ROLES
from whydiff.capturing.store.layout import COPY_AGAIN
from whydiff.capturing.store.safetensors_file import MAX_DIMENSIONS
from whydiff.errors import TraceFormatError, harmless
from whydiff.records import Call, Event, Fingerprint, Leaf, Site, TensorSpec

T = TypeVar("T")
LIMIT = 2**63


@dataclass(frozen=True)
class Stored:
    """Where a payload lies: its name in the shard, true dtype, numpy dtype of its bits, shape, shard number, CRC-32."""

    name: str
    dtype: str
    stored: str
    shape: tuple[int, ...]
    shard: int
    crc32: int


@dataclass(frozen=True)
class Shard:
    """A payload shard: size of the file in bytes, CRC-32 of its header."""

    size: int
    header_crc32: int


@dataclass(frozen=True)
class Mark:
    """How much there was at a step's end (or at the end of the trace)."""

    steps: int = 0
    calls: int = 0
    leaves: int = 0
    contexts: int = 0
    payloads: int = 0
    shards: int = 0


def unwrap(raw: bytes) -> Any:
    """The data of one line without its newline.

    Raises:
        ValueError: the checksum or the JSON is wrong.
    """
    if raw[8:9] != b" " or raw[:8] != b"%08x" % zlib.crc32(memoryview(raw)[9:]):
        raise ValueError("the checksum at the beginning of the line does not match the line")
    try:
        return strict.decode(raw[9:].decode("ascii"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _named(value: Any, what: str) -> str:
    """A text that is shown to people: on one line, without what a terminal obeys."""
    return harmless(_str(value, what), one_line=True)


def _int(value: Any, what: str, low: int = 0, high: int = LIMIT) -> int:
    if type(value) is not int or not low <= value < high:
        raise ValueError(f"{what} must be an integer from {low} to {high - 1}, not {value!r:.60}")
    return value


def _str(value: Any, what: str) -> str:
    if type(value) is not str:
        raise ValueError(f"{what} must be a string, not {value!r:.60}")
    return value


def _list(value: Any, what: str, *lengths: int) -> list[Any]:
    if type(value) is not list or (lengths and len(value) not in lengths):
        size = " or ".join(map(str, lengths))
        raise ValueError(f"{what} must be a list{f' of {size}' if size else ''}, not {value!r:.60}")
    return value


def _pick(table: list[T], number: Any, what: str) -> T:
    if type(number) is not int or not 0 <= number < len(table):
        raise ValueError(f"{what} must be a number below {len(table)}, not {number!r:.60}")
    return table[number]


def _word(value: Any, allowed: frozenset[str], what: str) -> Any:
    if type(value) is not str or value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(sorted(allowed))}, not {value!r:.60}")
    return value


def _fingerprint(raw: Any) -> Fingerprint | None:
    if raw is None:
        return None
    fields = _list(raw, "fingerprint", 2, 3)
    lanes = fields[0]
    if type(lanes) is not str or len(lanes) != 32 or not lanes.isalnum():
        raise ValueError(f"a fingerprint's lanes must be 32 hex digits, not {lanes!r:.60}")
    if len(fields) == 3 and fields[2] != "span":
        raise ValueError(f"a fingerprint covers 'span' or says nothing, not {fields[2]!r:.60}")
    both = int(lanes, 16)
    nbytes = _int(fields[1], "nbytes")
    lane = both >> 64, both & 0xFFFFFFFFFFFFFFFF
    return Fingerprint(lane, nbytes, "span" if len(fields) == 3 else "content")


class IndexDecoder:
    """Collects what the lines hold. `feed` raises ValueError for anything that is not as documented.

    Attributes:
        within: the last mark is no step's end.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.leaves: list[Leaf] = []
        self.contexts: list[Mapping[str, Any]] = []
        self.payloads: dict[str, Stored] = {}
        self.shards: list[Shard] = []
        self.mark = Mark()
        self.ended = False
        self.within = False
        self._strings: list[str] = []
        self._specs: list[TensorSpec] = []
        self._handlers: dict[str, Callable[[list[Any]], None]] = {
            "strings": self._add_strings,
            "specs": self._add_specs,
            "context": self._add_context,
            "leaf": self._add_leaf,
            "call": self._add_call,
            "shard": self._add_shard,
            "payload": self._add_payload,
            "step": self._add_mark,
            "mark": self._add_mark,
            "end": self._add_mark,
        }

    def feed(self, raw: bytes) -> None:
        """Take one line (without its newline)."""
        row = unwrap(raw)
        if type(row) is not list or not row or type(row[0]) is not str or row[0] not in self._handlers:
            raise ValueError(f"a line must be a list that begins with one of {', '.join(self._handlers)}")
        if self.ended:
            raise ValueError("there is a line after the end")
        self._handlers[row[0]](row)

    def keep_marked(self) -> Mark:
        """Forget what came after the last mark; returns how much that was."""
        mark, here = self.mark, self._here(self.mark.steps)
        lost = Mark(*(now - then for now, then in zip(astuple(here), astuple(mark), strict=True)))
        del self.calls[mark.calls :], self.leaves[mark.leaves :], self.contexts[mark.contexts :]
        del self.shards[mark.shards :]
        self.payloads = dict(list(self.payloads.items())[: mark.payloads])
        return lost

    def _here(self, steps: int) -> Mark:
        return Mark(
            steps=steps,
            calls=len(self.calls),
            leaves=len(self.leaves),
            contexts=len(self.contexts),
            payloads=len(self.payloads),
            shards=len(self.shards),
        )

    def _add_strings(self, row: list[Any]) -> None:
        _list(row, "strings", 2)
        self._strings.extend(_named(text, "string") for text in _list(row[1], "strings"))

    def _add_specs(self, row: list[Any]) -> None:
        _list(row, "specs", 2)
        for raw in _list(row[1], "specs"):
            shape, dtype, device, strides, offset = _list(raw, "spec", 5)
            sizes = tuple(_int(size, "size") for size in _list(shape, "shape"))
            steps = tuple(_int(step, "stride", -LIMIT) for step in _list(strides, "strides"))
            if steps and len(steps) != len(sizes):
                raise ValueError(f"{len(steps)} strides for {len(sizes)} dimensions")
            self._specs.append(
                TensorSpec(
                    shape=sizes,
                    dtype=_pick(self._strings, dtype, "dtype"),
                    device=_pick(self._strings, device, "device"),
                    strides=steps,
                    offset=_int(offset, "offset"),
                )
            )

    def _add_context(self, row: list[Any]) -> None:
        _list(row, "context", 2)
        if not isinstance(row[1], dict) or not all(type(name) is str for name in row[1]):
            raise ValueError(f"a context must be an object, not {row[1]!r:.60}")
        self.contexts.append(strict.cleaned(row[1]))

    def _add_leaf(self, row: list[Any]) -> None:
        _, storage, role, name, spec, fingerprint, payload, skipped = _list(row, "leaf", 8)
        strings = self._strings
        leaf = Leaf(
            storage=_int(storage, "storage", -1),
            role=_word(role, ROLES, "role"),
            name=_named(name, "name"),
            spec=_pick(self._specs, spec, "spec"),
            fingerprint=_fingerprint(fingerprint),
            payload=_pick(strings, payload, "payload"),
            skipped=_pick(strings, skipped, "skipped"),
        )
        self.leaves.append(leaf)

    def _site(self, raw: Any, slot: str) -> Site:
        scope, op, phase, step, rank, occurrence = _list(raw, "site", 6)
        return Site(
            scope=_pick(self._strings, scope, "scope"),
            op=_pick(self._strings, op, "op"),
            phase=_word(_pick(self._strings, phase, "phase"), PHASES, "phase"),
            step=_int(step, "step"),
            rank=_int(rank, "rank"),
            occurrence=_int(occurrence, "occurrence"),
            slot=slot,
        )

    def _event(self, raw: Any, home: Site, latest: int) -> Event:
        if type(raw) is not list or len(raw) not in (7, 8):
            raise ValueError(f"an event must be a list of 7 or 8, not {raw!r:.60}")
        strings = self._strings
        slot = _pick(strings, raw[0], "slot")
        return Event(
            site=home.at(slot) if len(raw) == 7 else self._site(raw[7], slot),
            spec=_pick(self._specs, raw[1], "spec"),
            storage=_int(raw[2], "storage", -1),
            producer=_int(raw[3], "producer", -1, latest),
            fingerprint=_fingerprint(raw[4]),
            skipped=_pick(strings, raw[5], "skipped"),
            payload=_pick(strings, raw[6], "payload"),
        )

    def _add_call(self, row: list[Any]) -> None:
        fields = _list(row, "call", 12)
        _, index, site, target, kind, reads, writes, arguments, mutates, context, rng, source = fields
        if type(index) is not int or index != len(self.calls):
            raise ValueError(f"the call's index is {index!r:.60}, its position is {len(self.calls)}")
        home = self._site(site, "")
        inputs = tuple(self._event(raw, home, index) for raw in _list(reads, "reads"))
        # A write may name the call itself as the storage's last writer.
        outputs = tuple(self._event(raw, home, index + 1) for raw in _list(writes, "writes"))
        changed = tuple(_int(i, "mutates", 0, len(inputs)) for i in _list(mutates, "mutates"))
        call = Call(
            index=index,
            site=home,
            target=_pick(self._strings, target, "target"),
            kind=_word(kind, KINDS, "kind"),
            reads=inputs,
            writes=outputs,
            arguments=strict.cleaned(arguments),
            mutates=changed,
            context=_int(context, "context"),
            rng=_pick(self._strings, rng, "rng"),
            source=_pick(self._strings, source, "source"),
        )
        self.calls.append(call)

    def _add_shard(self, row: list[Any]) -> None:
        _, number, size, crc = _list(row, "shard", 4)
        if type(number) is not int or number != len(self.shards):
            raise ValueError(f"the shard's number is {number!r:.60}, its position is {len(self.shards)}")
        self.shards.append(Shard(_int(size, "size"), _int(crc, "crc32", 0, 2**32)))

    def _add_payload(self, row: list[Any]) -> None:
        _, key, dtype, stored, shape, shard, crc = _list(row, "payload", 7)
        shown = _named(key, "key")
        if not key or shown in self.payloads:
            raise ValueError(f"a payload's key must be new and not empty, not {key!r:.60}")
        if not carries(_str(dtype, "dtype"), _str(stored, "stored dtype")):
            raise ValueError(f"{dtype!r:.60} cannot be stored as {stored!r:.60}")
        sizes = tuple(_int(size, "size") for size in _list(shape, "shape"))
        if len(sizes) > MAX_DIMENSIONS:
            raise ValueError(f"a payload has {len(sizes)} dimensions")
        number = _int(shard, "shard", 0, len(self.shards))
        crc32 = _int(crc, "crc32", 0, 2**32)
        self.payloads[shown] = Stored(name=key, dtype=dtype, stored=stored, shape=sizes, shard=number, crc32=crc32)

    def _add_mark(self, row: list[Any]) -> None:
        _list(row, row[0], 7)
        self.ended = row[0] == "end"
        steps = self.mark.steps + (1 if row[0] == "step" else 0)
        self.within = row[0] == "mark"
        here = self._here(steps)
        told = Mark(*(_int(value, "count") for value in row[1:]))
        if told != here:
            raise ValueError(f"the line counts {told}, but there are {here}")
        self.mark = here


def read_lines(index: IndexDecoder, data: bytes, file: Path) -> bool:
    """Feed every whole line; returns whether the last one is torn.

    Raises:
        TraceFormatError: a line is damaged.
    """
    *lines, rest = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            index.feed(line)
        except ValueError as error:
            raise TraceFormatError(
                "A line of the index is damaged.",
                where=f"{file}, line {number}",
                actual=str(error),
                next_step=COPY_AGAIN,
            ) from error
    return rest != b""
