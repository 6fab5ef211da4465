"""What the recorder's hot path writes down, as records.

A call is a plain tuple while a program runs; records are made when they are asked for, or when a step ends.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from whydiff.capturing.adapters.torch.arguments import encode
from whydiff.capturing.adapters.torch.device.queue import known
from whydiff.capturing.adapters.torch.dtypes import dtype_name
from whydiff.records import Call, Event, Fingerprint, Site, TensorSpec

Row = tuple[Any, ...]


class Log(NamedTuple):
    """Calls that were not handed on yet, and how many were."""

    base: int
    rows: list[Row]

    @property
    def next(self) -> int:
        """Index of the next call."""
        return self.base + len(self.rows)


def _spec(raw: Any, specs: dict[Any, TensorSpec]) -> TensorSpec:
    if isinstance(raw, TensorSpec):
        return raw
    spec = specs.get(raw)
    if spec is None:
        shape, dtype, device, strides, offset = raw
        spec = specs[raw] = TensorSpec(
            shape=tuple(shape), dtype=dtype_name(dtype), device=str(device), strides=tuple(strides), offset=offset
        )
    return spec


def call_of(row: Row, specs: dict[Any, TensorSpec], rank: int = 0) -> Call:
    """One call of a rank; ``specs`` remembers specs, so that equal ones are one object."""
    index, scope, operator, phase, step, kind, reads, writes, template, mutates, context, rng, number = row
    slots, told = None, None
    if isinstance(operator, tuple) and len(operator) == 4:
        target, op, slots, told = operator
    elif isinstance(operator, tuple):
        (op, slots), target = operator, operator[0]
    else:
        op, target = operator.op, operator.target
    site = Site(scope=scope, op=op, phase=phase, step=step, rank=rank, occurrence=number)
    if slots is None:
        slots = [f"read.{i}" for i in range(len(reads))]
    read_events = tuple(
        Event(
            site=site.at(slot),
            spec=_spec(spec, specs),
            storage=storage,
            producer=producer,
            fingerprint=_fingerprint(lanes, nbytes, dense),
            skipped=skipped,
        )
        for slot, (spec, storage, producer, lanes, nbytes, dense, skipped, _) in zip(slots, reads, strict=True)
    )
    single = len(writes) == 1
    write_events = tuple(
        Event(
            site=site.at("output" if single else f"output.{i}"),
            spec=_spec(spec, specs),
            storage=storage,
            producer=producer,
            fingerprint=_fingerprint(lanes, nbytes, dense),
            skipped=skipped,
            payload=payload,
        )
        for i, (spec, storage, producer, lanes, nbytes, dense, skipped, payload) in enumerate(writes)
    )
    arguments = (
        [[], told]
        if told is not None
        else [encode(template[0]), {n: encode(v) for n, v in template[1].items()}, *map(encode, template[2:])]
    )
    return Call(
        index=index,
        site=site,
        target=target,
        kind=kind,
        reads=read_events,
        writes=write_events,
        arguments=arguments,
        mutates=mutates,
        context=context,
        rng=rng,
    )


def _fingerprint(lanes: Any, nbytes: int, dense: bool) -> Fingerprint | None:
    found = known(lanes)
    return None if found is None else Fingerprint(found, nbytes, "content" if dense else "span")
