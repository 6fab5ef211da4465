"""What collectives write, until the program looks at it: only then has it been waited for."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch

from whydiff.capturing.adapters.torch import waiting
from whydiff.capturing.adapters.torch.collectives import NEVER_WAITED
from whydiff.capturing.adapters.torch.dtypes import spec_of
from whydiff.capturing.adapters.torch.rows import Row
from whydiff.capturing.adapters.torch.storages import Storage


class Arrival(NamedTuple):
    """One value that is still to come, and its place among the writes of its call."""

    tensor: torch.Tensor
    storage: Storage
    call: int
    key: str
    writes: list[Row]
    position: int


class Arriving:
    """Values of one capture that are still to come.

    Args:
        look: (tensor, storage, index, key) → the row of a value that a call wrote; a method, whose object is not held: it
            holds this, and what it keeps of a program is to be given up with it, not at the next search for garbage.
    """

    def __init__(self, look: Callable[[torch.Tensor, Storage, int, str], Row]) -> None:
        self._look = weakref.WeakMethod(look)
        self._open: dict[int, list[Arrival]] = {}
        self._entered = 0

    def begin(self) -> None:
        """Its recorder is entered, perhaps once more: it takes an op apart."""
        waiting.begin()
        self._entered += 1

    def end(self) -> None:
        """Its recorder is left; the last time nothing is waited for any more."""
        waiting.end()
        self._entered -= 1
        if not self._entered:
            self.give_up()

    def expect(self, tensor: torch.Tensor, storage: Storage, index: int, key: str, writes: list[Row]) -> None:
        """Leave a place among a call's writes for what it writes into a tensor."""
        arrival = Arrival(tensor, storage, index, key, writes, len(writes))
        writes.append(_never(arrival))
        storage.pending = (*storage.pending, arrival)
        self._open.setdefault(index, []).append(arrival)

    def arrived(self, storage: Storage) -> None:
        """The program looks at a storage: what was to be written there is there."""
        pending, storage.pending = storage.pending, ()
        for arrival in pending:
            self._close(arrival)
            look = self._look()
            if look is not None:
                arrival.writes[arrival.position] = look(arrival.tensor, storage, arrival.call, arrival.key)

    def _close(self, arrival: Arrival) -> None:
        rest = [other for other in self._open.get(arrival.call, ()) if other is not arrival]
        if rest:
            self._open[arrival.call] = rest
        else:
            self._open.pop(arrival.call, None)

    def before(self, end: int) -> int:
        """Index of the first call of which something is still to come; ``end``: there is none."""
        return min(self._open, default=end)

    def give_up(self) -> None:
        """Nothing is waited for any more: what did not come is written down as such."""
        for arrivals in self._open.values():
            for arrival in arrivals:
                arrival.storage.pending = ()
        self._open.clear()


def _never(arrival: Arrival) -> Row:
    return (spec_of(arrival.tensor), arrival.storage.number, arrival.call, None, 0, True, NEVER_WAITED, "")
