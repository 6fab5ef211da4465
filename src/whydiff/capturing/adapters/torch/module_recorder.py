"""Module-level capture: inputs and outputs of every module call, no dispatch mode, much cheaper."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from whydiff.capturing.adapters.torch.dtypes import not_comparable
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.recorder import Recorder


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

    def entered(self, scope: str, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        """Look at what the module is given, as it is now."""
        self._pending[len(self.scopes.stack)] = self._looks((args, kwargs))

    def left(self, scope: str, module: torch.nn.Module, output: Any) -> None:
        """Look at what the module gives back and write the call down."""
        reads = self._pending.pop(len(self.scopes.stack))
        writes = self._looks(output)
        self._append("module", scope, type(module).__name__, reads, writes)

    def _looks(self, value: Any) -> list[Any]:
        rows = []
        with _disable_current_modes():
            for _, tensor in tensors_in(value):
                storage = None if not_comparable(tensor) else self.storages.of(tensor)
                if storage is not None:
                    storage.forget()
                rows.append(self._look(tensor, None, 0, None))
            self.storages.queue.flush()  # nobody tells when this memory is written again
        return rows
