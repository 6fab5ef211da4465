"""What every rank holds of a model's state, as a trace or a log of steps tells it."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from whydiff.capturing.steps import StepRecord
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.numbers.formats import FORMATS
from whydiff.records import Call, Collective, Event, Fingerprint, Leaf, Site, TensorSpec, Trace

_LARGEST = 1 << 24
"""Elements of a tensor that may be zeros or ones only; larger ones are taken not to be."""
_FORM = re.compile(r"(?P<dtype>\w{1,20})\[(?P<sizes>(?:\d{1,15}(?:, \d{1,15}){0,63})?)\]", re.ASCII)

Name = tuple[tuple[str, ...], str]
"""What state is called; and, where several tensors share these names, what reads it."""


@dataclass(frozen=True, slots=True)
class Look:
    """A tensor of a rank's state, as it is read, after how many collectives.

    Attributes:
        exact: whether looks of the same `when` are at the same moment of the run on all ranks.
    """

    exact: ClassVar[bool] = False
    place: Site
    spec: TensorSpec
    bits: Fingerprint
    met: int

    @property
    def step(self) -> int:
        """The step that reads it."""
        return self.place.step

    @property
    def layout(self) -> Any:
        """What has to be equal for fingerprints to be compared."""
        return self.spec.shape, self.spec.strides, self.spec.dtype, self.bits.covers

    @property
    def when(self) -> tuple[int, int]:
        """Order of looks over all ranks: collectives that were over, which all ranks call alike; else steps."""
        return self.met, 0 if self.met else self.step

    @property
    def is_plain(self) -> bool:
        """Whether these are zeros or ones only."""
        count = self.spec.numel
        return count <= _LARGEST and self.bits.lanes in _plain_lanes(self.spec.dtype, count)


@dataclass(frozen=True, slots=True)
class Digest:
    """A tensor of a rank's state, as a step's update finds it: of a log of steps."""

    exact: ClassVar[bool] = True
    layout: str
    bits: str
    step: int
    place: None = None

    @property
    def when(self) -> tuple[int, int]:
        """Order of looks over all ranks: their updates."""
        return 0, self.step

    @property
    def is_plain(self) -> bool:
        """Whether these are zeros or ones only."""
        found = _FORM.fullmatch(self.layout)
        if found is None:
            return False
        count = math.prod(int(size) for size in found["sizes"].split(", ") if size)
        return count <= _LARGEST and self.bits in {f"{one[0]:016x}" for one in _plain_lanes(found["dtype"], count)}


def digests(step: StepRecord) -> Iterator[tuple[Name, Digest]]:
    """(name, digest) of every parameter and buffer."""
    forms = step.forms or ("",) * len(step.names)
    for name, form, digest in zip(step.names, forms, step.weights, strict=True):
        if digest:
            yield ((name,), ""), Digest(form, digest, step.number)


def looks(trace: Trace) -> Iterator[tuple[Name, Look]]:
    """(name, look) of what forward passes read of a rank's state, but for what is read to be sent to other ranks."""
    names, sent = _names(trace), {event.storage for call in _exchanges(trace) for event in call.reads}
    met = 0
    for call in trace.calls:
        if Collective.of(call.arguments) is not None:
            met += 1
        elif not any(event.storage in sent for event in call.writes if event.storage not in names):
            for event in call.reads if call.kind == "compute" and call.site.phase == "forward" else ():
                if event.storage in names and event.fingerprint is not None:
                    yield names[event.storage], Look(event.site, event.spec, event.fingerprint, met)


def _exchanges(trace: Trace) -> Iterator[Call]:
    yield from (call for call in trace.calls if Collective.of(call.arguments) is not None)


def _read(trace: Trace) -> Iterator[Event]:
    for call in trace.calls:
        if call.kind == "compute" and call.site.phase == "forward":
            yield from (event for event in call.reads if event.storage >= 0)


def state(trace: Trace) -> list[Leaf]:
    """Parameters and buffers, but for those that nobody captured."""
    return [leaf for leaf in trace.leaves if leaf.is_registered and not leaf.skipped]


def _names(trace: Trace) -> dict[int, Name]:
    """Storage → name of a model's state.

    What was made before the capture is a leaf. Of a model that was made within it, a leaf names scope, shape and dtype;
    its storage is one that several steps read there, and that looks so. Where several look alike (a norm's weight and
    bias), each is called by all their names, and by what reads it.
    """
    names: dict[int, Name] = {leaf.storage: ((leaf.name,), "") for leaf in reversed(state(trace)) if leaf.storage >= 0}
    first: dict[tuple[Any, int], Site] = {}
    lasting: dict[Any, dict[int, Site]] = {}
    for event in _read(trace):
        key = _form(event.site.scope, event.spec), event.storage
        if event.site.step > first.setdefault(key, event.site).step and event.storage not in names:
            lasting.setdefault(key[0], {})[event.storage] = first[key]
    unplaced: dict[Any, list[str]] = {}
    for leaf in state(trace):
        if leaf.storage < 0:
            unplaced.setdefault(_form(leaf.name.rpartition(".")[0], leaf.spec), []).append(leaf.name)
    for form, found in unplaced.items():
        storages = lasting.get(form, {})
        for storage, site in storages.items() if len(storages) == len(found) else ():
            names[storage] = tuple(found), "" if len(found) == 1 else f"{site.op}, {site.slot}"
    return names


def _form(scope: str, spec: TensorSpec) -> Any:
    return scope, spec.dtype, tuple(sorted(spec.shape))


@functools.lru_cache(maxsize=512)
def _plain_lanes(dtype: str, count: int) -> tuple[Any, ...]:
    kind = FORMATS.get(dtype)
    width = kind.exponent_bits + kind.fraction_bits + (kind.sign > 0) if kind is not None else 0
    if kind is not None and width % 8 == 0:
        ones = np.full(count, kind.bias << kind.fraction_bits, f"<u{width // 8}")
    elif dtype in np.sctypeDict and np.dtype(dtype).kind in "biufc":
        ones = np.ones(count, dtype)
    else:
        return ()
    return tuple(fingerprint_bytes(bits).lanes for bits in (np.zeros_like(ones), ones))
