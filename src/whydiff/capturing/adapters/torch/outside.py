"""What changes memory and is no op: found where such memory is looked at again, and written down as a copy into it.

An array of numpy, a library that was given an address, or another framework writes into memory that torch lent
(`lending`) or was lent. What is known of a storage's content is then no longer true, and nobody says so. So memory that
is on loan is looked at again when an op reads it, memory that was lent to an array once more when the array dies, and
all that is still there when a capture to disk ends; of a live run, whose outputs are compared themselves, what is on loan.
What is found changed becomes a call (`OP`) that copies a value which entered the run there, as a constant does: replays,
lifted replays and experiments then see the same memory as the run.

Memory of devices is looked at by none of this: an answer would have to be waited for.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from whydiff.capturing.adapters.torch import lending
from whydiff.capturing.adapters.torch.arguments import PLACES
from whydiff.capturing.adapters.torch.dtypes import dtype_of, not_comparable
from whydiff.capturing.adapters.torch.operators import Operator, describe
from whydiff.capturing.adapters.torch.state import LiveLeaf
from whydiff.capturing.adapters.torch.storages import Lent, Storage
from whydiff.capturing.adapters.torch.surroundings import unseen
from whydiff.capturing.adapters.torch.writing import Writing
from whydiff.numbers.fingerprint import fingerprint_address, fingerprint_addresses
from whydiff.records.hole import OUTSIDE
from whydiff.records.trace import OVERWRITTEN

SMALL = 1 << 14
"""Bytes on loan that are looked at whenever they are read; more of them less often while they stay as they are (`Lent`)."""
KEPT = 64 << 20
"""Bytes of leaves that are kept as they were when their memory is lent, in all; of more the beginning may be lost."""

Place = tuple[int, int]


class Found(NamedTuple):
    """Memory that changed and that no op wrote.

    Attributes:
        storage: whose.
        place: which bytes of it.
        now: what they hold.
        spec: how a tensor looks at them.
        lanes: of them, now.
    """

    storage: Storage
    place: Place
    now: torch.Tensor
    spec: tuple[Any, ...]
    lanes: Any


@functools.cache
def _operator() -> Operator:
    return replace(describe(torch.ops.aten.copy_.default), op=OUTSIDE)


class Outside(Writing):
    """Writing, and what is written outside torch.

    Attributes:
        thread: on which loans are told of.
        found: changes that no call stands for yet.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.thread = threading.get_ident()
        self.found: deque[Found] = deque()
        self._arrays: dict[int, weakref.ref[Any]] = {}
        """Arrays that show memory of tensors, by identity."""
        self._written_outside = self._kept = 0

    # ------------------------------------------------------------------ loans

    def lent(self, tensor: torch.Tensor, array: Any) -> None:
        """See `lending.Listener`."""
        try:
            with unseen():
                if self.fingerprints and not not_comparable(tensor) and tensor.is_cpu:
                    self._lend(tensor, array)
        except Exception as error:  # noqa: BLE001 - it is counted
            self.failed("lending", error)

    def _lend(self, tensor: torch.Tensor, array: Any) -> None:
        storage = self.storages.of(tensor)
        if storage is None:
            return  # looked at when it is met
        if storage.lent is None:
            storage.lent = Lent()
        storage.lent.soon()
        if storage.leaves and not storage.written:
            kept = self._kept + sum(leaf.look.nbytes for leaf in storage.leaves)
            if kept <= KEPT:
                self._kept = kept
                self._before_write(tensor, storage)
        if array is None:
            storage.lent.kept = True
        elif id(array) not in self._arrays:
            storage.lent.arrays += 1
            number = id(array)
            self._arrays[number] = weakref.ref(array, lambda _: self._given_back(number, storage))

    def _given_back(self, number: int, storage: Storage) -> None:
        """An array dies: what it wrote is there, and nothing comes after it. Its tensor still holds the memory."""
        self._arrays.pop(number, None)
        if storage.lent is None:
            return
        storage.lent.arrays -= 1
        if threading.get_ident() != self.thread:  # who frees it may be anybody; the next read looks
            storage.lent.kept = True
            return
        try:
            with unseen():
                memory: Any = torch.UntypedStorage._new_with_weak_ptr(storage.handle)
                if memory is not None:
                    self.found.extend(self._seen(storage, self._changed(storage, memory, None)))
        except Exception as error:  # noqa: BLE001 - it is counted
            self.failed("lending", error)
        if not (storage.lent.arrays or storage.lent.kept) and storage.initialised:
            storage.lent = None

    @contextmanager
    def _listening(self) -> Iterator[None]:
        lending.listen(self)
        try:
            yield
        finally:
            lending.leave(self)
            self._arrays.clear()

    def told_of_loans(self) -> AbstractContextManager[None]:
        """A block in which loans are heard of."""
        return self._listening()

    # ------------------------------------------------------------------ looks

    def _look_outside(self, tensor: torch.Tensor, storage: Storage, place: Place) -> None:
        lent = storage.lent
        if lent is None or storage.device or not lent.due(place[1] - place[0] <= SMALL):
            return
        if not storage.initialised:  # who was lent it filled it
            storage.initialised = True
            memory = tensor.untyped_storage()
            whole = 0, memory.nbytes() // tensor.element_size() * tensor.element_size()
            alike = place == whole and tensor.is_contiguous()
            self._note(self._now(storage, memory, whole, _spec(tensor) if alike else _in_a_row(whole, tensor.dtype)))
            lent.looked(True)
            return
        found = self._seen(storage, self._changed(storage, tensor.untyped_storage(), place))
        lent.looked(bool(found))
        for one in found:
            self._note(one)

    def look_at_all(self, *, everything: bool) -> None:
        """Look once more at all memory that is still there, or at what is on loan of it."""
        self.note_found()
        held: list[tuple[Storage, torch.UntypedStorage]] = []
        known = [one for one in self.storages.known.values() if one.spans and (everything or one.lent is not None)]
        for storage in [one for one in known if not one.pending]:
            memory: Any = torch.UntypedStorage._new_with_weak_ptr(storage.handle)
            if memory is not None and memory.device.type == "cpu":
                held.append((storage, memory))
        places = [(storage, memory, place) for storage, memory in held for place in _outermost(storage.spans)]
        places = [(storage, memory, place) for storage, memory, place in places if place[1] <= memory.nbytes()]
        lanes = _lanes([(memory, place) for _, memory, place in places])
        apart = [
            (storage, memory)
            for (storage, memory, place), now in zip(places, lanes, strict=True)
            if storage.spans[place] != now
        ]
        for storage, memory in dict.fromkeys(apart):
            for one in self._seen(storage, self._changed(storage, memory, None)):
                self._note(one)

    def _seen(self, storage: Storage, changed: Iterable[Found]) -> list[Found]:
        """What changed; reads that were not looked at meanwhile may have seen it already, and are counted."""
        found = list(changed)
        if found and storage.lent is not None and storage.lent.missed:
            told, scope = "reads of memory that was written outside torch meanwhile", self.scopes.scope
            self.holes.add("outside", told, scope, storage.lent.missed)
        return found

    def _changed(self, storage: Storage, memory: torch.UntypedStorage, place: Place | None) -> Iterator[Found]:
        """What is known of a storage and no longer there; ``place``: as far as that concerns those bytes."""
        if storage.pending:
            return
        asked: Iterable[Place] = storage.spans
        if place is not None:
            known = place in storage.spans
            asked = (place,) if known else [(a, b) for a, b in storage.spans if a < place[1] and place[0] < b]
        asked = [one for one in asked if one[1] <= memory.nbytes()]
        lanes = _lanes([(memory, one) for one in asked])
        apart = [one for one, now in zip(asked, lanes, strict=True) if storage.spans[one] != now]
        for low, high in _outermost(apart):
            yield self._now(storage, memory, (low, high), _shown(storage, (low, high)))

    def _now(self, storage: Storage, memory: torch.UntypedStorage, place: Place, spec: tuple[Any, ...]) -> Found:
        shape, dtype, device, strides, offset = spec
        now = torch.empty(0, dtype=dtype, device=device).set_(memory, offset, shape, strides).clone()
        (lanes,), (low, high) = _lanes([(memory, place)]), place
        for known in [one for one in storage.spans if one[0] < high and low < one[1]]:
            del storage.spans[known]
        storage.rows.clear()
        storage.spans[place] = lanes
        for leaf in storage.leaves:
            leaf.changed_outside()
        return Found(storage, place, now, spec, lanes)

    # ------------------------------------------------------------------ what is written down

    def note_found(self) -> None:
        """Write down what was found between two ops."""
        while self.found:
            self._note(self.found.popleft())

    def _note(self, found: Found) -> None:
        storage, spec, operator = found.storage, found.spec, _operator()
        leaf = LiveLeaf(f"outside#{self._written_outside}", "constant", found.now, brief=True)
        self._written_outside += 1
        self.add_leaf(leaf)
        given = self._look(found.now, None, 0, None)
        phase, scope = self.scopes.phase_and_scope()
        index, number = self._log.next, self._occurrence(scope, OUTSIDE, phase)
        before = (spec, storage.number, storage.producer, None, 0, True, OVERWRITTEN, "")
        nbytes = found.place[1] - found.place[0]
        after = (spec, storage.number, index, found.lanes, nbytes, True, "", "")
        storage.producer = index
        rows, template = ([before, given], [after]), ([PLACES[0], PLACES[1]], dict[str, Any]())
        what = (index, scope, operator, phase, self.scopes.step, "compute")
        self._log.rows.append((*what, *rows, template, (0,), self._context(), "", number))


def _lanes(asked: Sequence[tuple[torch.UntypedStorage, Place]]) -> list[tuple[int, int]]:
    if len(asked) == 1:
        ((memory, (low, high)),) = asked
        return [fingerprint_address(memory.data_ptr() + low, high - low)]
    return fingerprint_addresses([(memory.data_ptr() + low, high - low) for memory, (low, high) in asked])


def _outermost(places: Iterable[Place]) -> list[Place]:
    """Of places that overlap, those that lie in no other."""
    found: list[Place] = []
    for low, high in sorted(places, key=lambda one: (one[0], -one[1])):
        if not found or high > found[-1][1]:
            found.append((low, high))
    return found


def _shown(storage: Storage, place: Place) -> tuple[Any, ...]:
    """How a tensor looked at these bytes; else as numbers in a row, of the type in which the storage was looked at."""
    dtype = torch.uint8
    for row in storage.rows.values():
        spec, dense = row[0], row[5]
        offset = spec[4] * spec[1].itemsize
        if dense and (offset, offset + spec[0].numel() * spec[1].itemsize) == place:
            return tuple(spec)
        dtype = spec[1]
    for leaf in storage.leaves:
        kind = dtype_of(leaf.spec.dtype)
        dtype, offset = kind, leaf.spec.offset * kind.itemsize
        if (offset, offset + leaf.spec.numel * kind.itemsize) == place and leaf.spec.is_dense:
            return torch.Size(leaf.spec.shape), kind, torch.device("cpu"), leaf.spec.strides, leaf.spec.offset
    return _in_a_row(place, dtype)


def _spec(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.storage_offset()


def _in_a_row(place: Place, dtype: torch.dtype) -> tuple[Any, ...]:
    low, high = place
    if low % dtype.itemsize or high % dtype.itemsize:
        dtype = torch.uint8
    count = (high - low) // dtype.itemsize
    return torch.Size((count,)), dtype, torch.device("cpu"), (1,), low // dtype.itemsize
