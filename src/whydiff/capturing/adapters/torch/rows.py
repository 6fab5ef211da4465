"""What the recorder's hot path writes down, as records.

A call is a plain tuple while a program runs; records are made when they are asked for, or when a step ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from whydiff.capturing.adapters.torch.arguments import encode, encoded
from whydiff.capturing.adapters.torch.device.queue import Pending
from whydiff.capturing.adapters.torch.dtypes import dtype_name
from whydiff.records import Call, Fingerprint, TensorSpec, making

Row = tuple[Any, ...]


class Log(NamedTuple):
    """Calls that were not handed on yet, and how many were."""

    base: int
    rows: list[Row]

    @property
    def next(self) -> int:
        """Index of the next call."""
        return self.base + len(self.rows)


Shown = dict[int, making.Look]
"""Looks that events were made of, by the identity of their rows: the same row is read again and again."""

_READS = tuple(tuple(f"read.{i}" for i in range(count)) for count in range(32))
_OUTPUT = ("output",)
_COVERS: tuple[Literal["span"], Literal["content"]] = ("span", "content")


class Making:
    """Makes calls of what a recorder wrote down, also before a device has read what they were given.

    Args:
        rank: of the process.
    """

    def __init__(self, rank: int = 0) -> None:
        self._rank = rank
        self._shown: Shown = {}
        self._specs: dict[int, TensorSpec] = {}
        self._unread: list[tuple[Pending, Fingerprint]] = []

    def settle(self) -> None:
        """Give the calls the fingerprints that were in line when they were made; after `Queue.settle`."""
        for ticket, made in self._unread:
            assert ticket.lanes is not None, "a device gave no fingerprint"
            making.read(made, ticket.lanes)
        self._unread.clear()

    def call_of(self, row: Row) -> Call:
        """One call. The rows of all calls are held until the last is made: they are known by their identity."""
        index, scope, operator, phase, step, kind, reads, writes, template, mutates, context, rng, number = row
        arguments: Any = None
        count = len(reads)
        slots: Sequence[str] = _READS[count] if count < len(_READS) else [f"read.{i}" for i in range(count)]
        if type(operator) is tuple:
            target, op, *more = operator if len(operator) == 4 else (operator[0], *operator)
            slots = slots if more[0] is None else more[0]
            arguments = [[], more[1]] if len(more) == 2 else None
        else:
            op, target = operator.op, operator.target
        if arguments is None:
            given, named, *rest = template
            arguments = [
                encoded(given),
                {name: encode(value) for name, value in named.items()} if named else {},
                *map(encode, rest),
            ]
        outputs = _OUTPUT if len(writes) == 1 else [f"output.{i}" for i in range(len(writes))]
        site = making.site(scope=scope, op=op, phase=phase, step=step, rank=self._rank, occurrence=number)
        shown, look = self._shown.get, self._look
        return making.call(
            index=index,
            site=site,
            target=target,
            kind=kind,
            reads=making.events(site, slots, [shown(id(read)) or look(read) for read in reads]),
            writes=making.events(site, outputs, [shown(id(written)) or look(written) for written in writes]),
            arguments=arguments,
            mutates=mutates,
            context=context,
            rng=rng,
        )

    def _look(self, row: Row) -> making.Look:
        raw, storage, producer, lanes, nbytes, dense, skipped, payload = row
        spec = raw if type(raw) is TensorSpec else self._specs.get(id(raw))
        if spec is None:
            shape, dtype, device, strides, offset = raw
            spec = self._specs[id(raw)] = TensorSpec(
                shape=tuple(shape), dtype=dtype_name(dtype), device=str(device), strides=tuple(strides), offset=offset
            )
        if lanes is None:
            fingerprint = None
        elif type(lanes) is tuple:
            fingerprint = making.fingerprint(lanes, nbytes, _COVERS[dense])
        else:
            fingerprint = making.fingerprint(lanes.lanes, nbytes, _COVERS[dense])
            if lanes.lanes is None:
                self._unread.append((lanes, fingerprint))
        look = self._shown[id(row)] = (spec, fingerprint, storage, producer, skipped, payload)
        return look
