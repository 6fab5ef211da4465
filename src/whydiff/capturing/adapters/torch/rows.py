"""What the recorder's hot path writes down, as records.

A call is a plain tuple while a program runs; records are made when they are asked for, or when a step ends.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from whydiff.capturing.adapters.torch.arguments import encode
from whydiff.capturing.adapters.torch.device.queue import known
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

_READS = tuple(f"read.{i}" for i in range(32))


def call_of(row: Row, shown: Shown, specs: dict[int, TensorSpec], rank: int = 0) -> Call:
    """One call of a rank.

    Args:
        row: as the recorder wrote it down.
        shown, specs: what was made for calls before, of rows that are all still held; it grows.
        rank: of the process.
    """
    index, scope, operator, phase, step, kind, reads, writes, template, mutates, context, rng, number = row
    slots, told = None, None
    if isinstance(operator, tuple) and len(operator) == 4:
        target, op, slots, told = operator
    elif isinstance(operator, tuple):
        (op, slots), target = operator, operator[0]
    else:
        op, target = operator.op, operator.target
    if slots is None:
        slots = _READS[: len(reads)] if len(reads) <= len(_READS) else [f"read.{i}" for i in range(len(reads))]
    outputs = ("output",) if len(writes) == 1 else [f"output.{i}" for i in range(len(writes))]
    site = making.site(scope=scope, op=op, phase=phase, step=step, rank=rank, occurrence=number)
    read = [shown.get(id(look)) or _look(look, shown, specs) for look in reads]
    written = [shown.get(id(look)) or _look(look, shown, specs) for look in writes]
    arguments = (
        [[], told]
        if told is not None
        else [encode(template[0]), {n: encode(v) for n, v in template[1].items()}, *map(encode, template[2:])]
    )
    return making.call(
        index=index,
        site=site,
        target=target,
        kind=kind,
        reads=making.events(site, slots, read),
        writes=making.events(site, outputs, written),
        arguments=arguments,
        mutates=mutates,
        context=context,
        rng=rng,
        source="",
    )


def _look(row: Row, shown: Shown, specs: dict[int, TensorSpec]) -> making.Look:
    raw, storage, producer, lanes, nbytes, dense, skipped, payload = row
    spec = raw if isinstance(raw, TensorSpec) else specs.get(id(raw))
    if spec is None:
        shape, dtype, device, strides, offset = raw
        spec = specs[id(raw)] = TensorSpec(
            shape=tuple(shape), dtype=dtype_name(dtype), device=str(device), strides=tuple(strides), offset=offset
        )
    found = known(lanes)
    fingerprint = None if found is None else Fingerprint(found, nbytes, "content" if dense else "span")
    look = shown[id(row)] = (spec, fingerprint, storage, producer, skipped, payload)
    return look
