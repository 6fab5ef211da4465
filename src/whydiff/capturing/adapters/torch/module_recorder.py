"""Module-level capture: inputs and outputs of every module call, no dispatch mode, much cheaper."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from whydiff.capturing.adapters.torch.dtypes import not_comparable
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.recorder import Recorder
from whydiff.capturing.adapters.torch.rows import Row
from whydiff.capturing.adapters.torch.state import LiveLeaf
from whydiff.capturing.adapters.torch.storages import Storage
from whydiff.records import HoleKind


class ModuleRecorder(Recorder):
    """Records one call of kind ``module`` per module call, in the order in which modules return.

    In-place changes are not seen at this level, so every value is fingerprinted anew and dataflow is known
    by content only. Such a trace cannot be replayed.
    """

    def __enter__(self) -> ModuleRecorder:
        self._pending: dict[int, list[Any]] = {}
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def _constant(self, tensor: torch.Tensor) -> Storage:
        """What no module owns is mostly a value in between: its fingerprint is kept, it is not."""
        brief = self.on_many is not None
        self._constants += 1
        leaf = LiveLeaf(f"constant#{self._constants - 1}", "constant", tensor, brief=brief)
        storage = self.add_leaf(leaf)
        if brief:
            self.storages.queue.flush()
            leaf.settle()
        return storage

    def _look_outside(self, tensor: torch.Tensor, storage: Storage, place: tuple[int, int]) -> None:
        """Every value is read anew at this level."""

    def told_of_loans(self) -> AbstractContextManager[None]:
        """Nothing that is known of memory is relied on."""
        return nullcontext()

    def look_once_more(self, *, everything: bool) -> None:
        """Nobody knows what ops wrote since."""

    def entered(self, scope: str, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        """Look at what the module is given, as it is now."""
        depth = len(self.scopes.stack)
        self._pending = {known: rows for known, rows in self._pending.items() if known < depth}
        self._pending[depth] = self.looks((args, kwargs))

    def left(self, scope: str, module: torch.nn.Module, output: Any) -> None:
        """Look at what the module gives back and write the call down."""
        reads = self._pending.pop(len(self.scopes.stack), [])
        self._append("module", scope, type(module).__name__, reads, self.looks(output))

    def region(self, name: str, kind: HoleKind, reads: list[Row], result: Any) -> None:
        """Of a part that ran as one, its module tells what went in and out."""
        self.holes.add(kind, f"{name} ran as one", self.scopes.scope)

    def looks(self, value: Any) -> list[Row]:
        """Every tensor of a nested value, read anew."""
        rows = []
        for _, tensor in tensors_in(value):
            storage = None if not_comparable(tensor) else self.storages.of(tensor)
            if storage is not None:
                storage.forget()
            rows.append(self._look(tensor, None, 0, None))
        self.storages.queue.flush()  # nobody tells when this memory is written again
        return rows
