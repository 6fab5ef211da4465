"""Whether replicas stay equal: state of a model that was the same on all ranks, and is not any more.

No placement is read from a program. A tensor is a replica from the step on at which all ranks hold the same bits; zeros
and ones alone do not show it, because shards begin with them as well.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from whydiff.capturing.steps import StepLog, StepRecord
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.numbers.formats import FORMATS
from whydiff.records import Event, Fingerprint, Leaf, Site, TensorSpec, Trace

_LARGEST = 1 << 24
"""Elements of a tensor that may be zeros or ones only; larger ones are taken not to be."""


_FORM = re.compile(r"(?P<dtype>\w+)\[(?P<sizes>[\d, ]*)\]")
Held = TypeVar("Held", "Look", "Digest")

Name = tuple[tuple[str, ...], str]
"""What state is called; and, where several tensors share these names, what reads it."""


@dataclass(frozen=True, slots=True)
class Look:
    """A tensor of a rank's state, as a step first reads it."""

    site: Site
    spec: TensorSpec
    fingerprint: Fingerprint

    @property
    def layout(self) -> Any:
        """What has to be equal for fingerprints to be compared."""
        return self.spec.shape, self.spec.strides, self.spec.dtype, self.fingerprint.covers

    @property
    def is_plain(self) -> bool:
        """Whether these are zeros or ones only."""
        count = self.spec.numel
        return count <= _LARGEST and self.fingerprint.lanes in _plain_lanes(self.spec.dtype, count)


@dataclass(frozen=True, slots=True)
class Digest:
    """A tensor of a rank's state, as a step's update finds it: of a log of steps."""

    form: str
    digest: str

    @property
    def is_plain(self) -> bool:
        """Whether these are zeros or ones only."""
        found = _FORM.fullmatch(self.form)
        if found is None:
            return False
        count = math.prod(int(size) for size in found["sizes"].split(",") if size.strip())
        return count <= _LARGEST and self.digest in {f"{one[0]:016x}" for one in _plain_lanes(found["dtype"], count)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A replica that is not one any more.

    Attributes:
        name: of the parameter or buffer.
        step: the first at which ranks read other bits.
        since: the last step before at which all read the same.
        ranks: those that hold other bits than most; of two, or where it is a tie, those that differ from the lowest.
        site: where the first of them reads it; None: the update of that step finds it so (of a log of steps).
    """

    name: str
    step: int
    since: int
    ranks: tuple[int, ...]
    site: Site | None


@dataclass(frozen=True, slots=True)
class Replicas:
    """What was found of all state.

    Attributes:
        drifts: in order of their steps.
        equal: names of replicas that stayed equal.
        never: names that were never the same on all ranks, but for zeros and ones: shards, as a rule.
        alone: names that not all ranks read in any step, or each in another layout.
        steps: how many were compared.
    """

    drifts: tuple[Drift, ...]
    equal: tuple[str, ...]
    never: tuple[str, ...]
    alone: tuple[str, ...]
    steps: int


def replicas(traces: Mapping[int, Trace]) -> Replicas:
    """Compare every rank's state, step by step."""
    every = {leaf.name for trace in traces.values() for leaf in _state(trace)}
    looks = {rank: dict(_looks(trace)) for rank, trace in traces.items()}
    held: dict[Name, dict[int, dict[int, Look]]] = {}
    for name, step in sorted({key for of_rank in looks.values() for key in of_rank}, key=lambda key: (key[1], key[0])):
        found = {rank: of_rank[name, step] for rank, of_rank in looks.items() if (name, step) in of_rank}
        of_name = held.setdefault(name, {})
        if len(found) == len(looks) and len({look.layout for look in found.values()}) == 1:
            of_name[step] = found
    held = {name: of_name for name, of_name in held.items() if of_name}
    compared = {part for name in held for part in name[0]}
    drifts, equal, never = list[Drift](), list[str](), list[str]()
    for name, of_name in held.items():
        text = " or ".join(name[0]) + (f" ({name[1]})" if name[1] else "")
        begins, replica = _begins(of_name, lambda look: look.fingerprint)
        if begins is not None:
            site = of_name[begins.step][begins.ranks[0]].site
            drifts.append(Drift(name=text, step=begins.step, since=begins.since, ranks=begins.ranks, site=site))
        else:
            (equal if replica else never).append(text)
    drifts.sort(key=lambda drift: drift.step)
    steps = {step for of_name in held.values() for step in of_name}
    return Replicas(tuple(drifts), tuple(equal), tuple(never), tuple(sorted(every - compared)), len(steps))


def logged(logs: Mapping[int, StepLog]) -> Replicas:
    """Compare every rank's parameters and buffers, step by step, as logs of steps have them."""
    steps = {rank: {step.number: step for step in log.steps} for rank, log in logs.items()}
    shared = sorted(set.intersection(*(set(found) for found in steps.values()))) if steps else []
    every = sorted({name for found in steps.values() for step in found.values() for name in step.names})
    held: dict[str, dict[int, dict[int, Digest]]] = {name: {} for name in every}
    for number in shared:
        looks = {rank: _digests(found[number]) for rank, found in steps.items()}
        for name in set.intersection(*(set(of_rank) for of_rank in looks.values())):
            of_ranks = {rank: of_rank[name] for rank, of_rank in looks.items()}
            if len({one.form for one in of_ranks.values()}) == 1:
                held[name][number] = of_ranks
    drifts, equal, never = list[Drift](), list[str](), list[str]()
    for name, of_name in held.items():
        begins, replica = _begins(of_name, lambda one: one.digest)
        if begins is not None:
            drifts.append(Drift(name=name, step=begins.step, since=begins.since, ranks=begins.ranks, site=None))
        elif of_name:
            (equal if replica else never).append(name)
    drifts.sort(key=lambda drift: drift.step)
    compared = {step for of_name in held.values() for step in of_name}
    alone = tuple(name for name, of_name in held.items() if not of_name)
    return Replicas(tuple(drifts), tuple(equal), tuple(never), alone, len(compared))


def _digests(step: StepRecord) -> dict[str, Digest]:
    forms = step.forms or ("",) * len(step.names)
    rows = zip(step.names, forms, step.weights, strict=True)
    return {name: Digest(form, digest) for name, form, digest in rows if digest}


class _Begins(NamedTuple):
    """From which step on which ranks hold other bits, and up to which all held the same."""

    step: int
    since: int
    ranks: tuple[int, ...]


def _begins(held: Mapping[int, Mapping[int, Held]], bits: Callable[[Held], Hashable]) -> tuple[_Begins | None, bool]:
    """The first step at which a replica is none any more; and whether it ever was one."""
    since, alike = -1, True
    for step, looks in held.items():
        of_ranks: dict[int, Hashable] = {rank: bits(look) for rank, look in looks.items()}
        same = len({*of_ranks.values()}) == 1
        if not same and since >= 0:
            return _Begins(step, since, _odd(of_ranks)), True
        alike = alike and same
        if same and (since >= 0 or not next(iter(looks.values())).is_plain):
            since = step
    return None, alike or since >= 0


def _odd(found: Mapping[int, Hashable]) -> tuple[int, ...]:
    values = [*found.values()]
    most = max(values, key=values.count)  # the first of several: the lowest rank's
    return tuple(rank for rank, value in found.items() if value != most)


def _looks(trace: Trace) -> Iterator[tuple[tuple[Name, int], Look]]:
    """((name, step), look) of what each forward pass reads of a rank's state, first looks only."""
    names, known = _names(trace), set[tuple[Name, int]]()
    for event in _read(trace):
        name = names.get(event.storage)
        if name is not None and event.fingerprint is not None and (name, event.site.step) not in known:
            known.add((name, event.site.step))
            yield (name, event.site.step), Look(event.site, event.spec, event.fingerprint)


def _read(trace: Trace) -> Iterator[Event]:
    for call in trace.calls:
        if call.kind == "compute" and call.site.phase == "forward":
            yield from (event for event in call.reads if event.storage >= 0)


def _state(trace: Trace) -> list[Leaf]:
    return [leaf for leaf in trace.leaves if leaf.is_registered and not leaf.skipped]


def _names(trace: Trace) -> dict[int, Name]:
    """Storage → name of a model's state.

    What was made before the capture is a leaf. Of a model that was made within it, a leaf names scope, shape and dtype;
    its storage is one that several steps read there, and that looks so. Where several look alike (a norm's weight and
    bias), each is called by all their names, and by what reads it.
    """
    names: dict[int, Name] = {leaf.storage: ((leaf.name,), "") for leaf in reversed(_state(trace)) if leaf.storage >= 0}
    first: dict[tuple[Any, int], Site] = {}
    lasting: dict[Any, dict[int, Site]] = {}
    for event in _read(trace):
        key = _form(event.site.scope, event.spec), event.storage
        if event.site.step > first.setdefault(key, event.site).step and event.storage not in names:
            lasting.setdefault(key[0], {})[event.storage] = first[key]
    unplaced: dict[Any, list[str]] = {}
    for leaf in _state(trace):
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
    if kind is not None:
        width = kind.exponent_bits + kind.fraction_bits + (kind.sign > 0)
        ones = np.full(count, kind.bias << kind.fraction_bits, f"<u{width // 8}")
    elif dtype in np.sctypeDict:
        ones = np.ones(count, dtype)
    else:
        return ()
    return tuple(fingerprint_bytes(bits).lanes for bits in (np.zeros_like(ones), ones))
