"""Module-level capture: inputs and outputs of every module call, no dispatch mode, much cheaper."""

from __future__ import annotations

from typing import Any

import torch

from whydiff.adapters.torch.outputs import tensors_in
from whydiff.adapters.torch.recorder import Recorder


class ModuleRecorder(Recorder):
    """Records one call of kind ``module`` per module call, in the order in which modules return.

    In-place changes are not seen at this level, so every value is fingerprinted anew and dataflow is known
    by content only. Such a trace cannot be replayed.
    """

    def __enter__(self) -> ModuleRecorder:
        self._pending: list[tuple[list[Any], list[str]]] = []
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def entered(self, scope: str, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        """Look at what the module is given, as it is now."""
        self._pending.append(self._looks((args, kwargs)))

    def left(self, scope: str, module: torch.nn.Module, output: Any) -> None:
        """Look at what the module gives back and write the call down."""
        reads, _ = self._pending.pop()
        writes = [(*look, "") for look in self._looks(output)[0]]
        self._append("module", scope, type(module).__name__, reads, writes)

    def _looks(self, value: Any) -> tuple[list[Any], list[str]]:
        rows, paths = [], []
        for path, tensor in tensors_in(value):
            storage = self.storages.of(tensor)
            if storage is not None:
                storage.spans.clear()
            rows.append(self._look(tensor, None, 0, None))
            paths.append(path)
        return rows, paths
