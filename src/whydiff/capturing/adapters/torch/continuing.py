"""Replays that go on from where another one stands, so that what several begin with is carried out once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from whydiff.capturing.adapters._live import FAILURES, Replay
from whydiff.capturing.adapters.contract import Manner
from whydiff.capturing.adapters.torch.held import Held


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a replay stands: copies of the storages that it holds, and what it noted until then."""

    held: Mapping[int, Held]
    other: frozenset[int]
    taken: frozenset[int]
    notes: tuple[Any, ...]


class Continuing(Replay):
    """A replay that can say where it stands, and begin there."""

    _held: dict[int, Held]
    _other: set[int]
    _taken: set[int]
    _given: dict[int, torch.Tensor]
    _received: dict[int, Sequence[torch.Tensor]]
    _edited: frozenset[int]

    def manner_until(self, count: int) -> Manner | None:
        """How the first calls are carried out; None: not as recorded, or from a live run's own memory."""
        changed = self._restore or self._handles or self._stand_ins or self._received
        if changed or any(index < count for index in (*self._edited, *self._given)):
            return None
        return self._manner()

    def _manner(self) -> Manner | None:
        return Manner()

    def _notes(self) -> tuple[Any, ...]:
        """What it counted on its way."""
        return ()

    def _take_notes(self, notes: tuple[Any, ...]) -> None:
        """Go on counting from there."""

    def keep(self, storages: Collection[int]) -> None:
        """Forget none of these."""
        self._last.update(dict.fromkeys(storages, len(self.trace.calls)))

    def standing(self, most: int) -> Standing | None:
        """Where it stands; None if that is more than so many bytes, or not all of it can be copied by its bytes."""
        memory = {held.storage._cdata: held.storage.nbytes() for held in self._held.values()}
        lazy = (held.whole.is_conj() or held.whole.is_neg() or held.whole.is_quantized for held in self._held.values())
        if sum(memory.values()) > most or any(lazy):
            return None
        try:
            return Standing(copies(self._held), frozenset(self._other), frozenset(self._taken), self._notes())
        except FAILURES:  # there is no room for the copies: every replay begins at the first call
            return None

    def lacks(self, standing: Standing, count: int) -> bool:
        """Whether an exchanged call reads what was made before and is not held there, or a leaf as it was before."""
        read = [event for index in self._edited for event in self.trace.calls[index].reads if event.producer < count]
        if any(event.producer >= 0 and event.storage not in standing.held for event in read):
            return True
        leaves = {event.storage for event in read if event.producer < 0}
        calls = self.trace.calls[:count] if leaves else ()
        return any(event.storage in leaves for call in calls for event in call.writes if not event.is_look)

    def take_up(self, standing: Standing) -> None:
        """Begin there."""
        self._held = copies(standing.held)
        self._other, self._taken = set(standing.other), set(standing.taken)
        self._take_notes(standing.notes)


def copies(held: Mapping[int, Held]) -> dict[int, Held]:
    """Storages of their own with the same bytes; what shares memory shares its copy."""
    memory: dict[int, torch.UntypedStorage] = {}
    found = {}
    for number, one in held.items():
        if one.storage._cdata not in memory:
            memory[one.storage._cdata] = one.storage.clone()
        storage = memory[one.storage._cdata]
        whole = torch.empty(0, dtype=one.whole.dtype, device=one.whole.device)
        whole.set_(storage, one.whole.storage_offset(), one.whole.shape, one.whole.stride())
        found[number] = Held(whole, one.recorded, one.shift)
    return found
