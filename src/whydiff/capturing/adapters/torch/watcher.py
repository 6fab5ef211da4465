"""Module-level capture of a live run: notices in-place changes, so that state can be put back."""

from __future__ import annotations

from typing import Any

import torch

from whydiff.capturing.adapters.torch.dtypes import not_comparable
from whydiff.capturing.adapters.torch.operators import Decomposing, Operator
from whydiff.capturing.adapters.torch.recorder import Recorder


class Watcher(Decomposing):
    """Keeps what leaves were before an op changes them; records nothing.

    Args:
        recorder: knows the leaves.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def op(self, func: Any, operator: Operator, args: Any, kwargs: Any) -> Any:
        """What takes the place of an op."""
        if operator.written_names or operator.unannotated:
            written = [args[i] for i in operator.writes_to(args) if i < len(args)]
            written += [value for name, value in kwargs.items() if name in operator.written_names]
            self._about_to_change(written)
        return func(*args, **kwargs)

    def _about_to_change(self, values: Any) -> None:
        for value in values:
            if isinstance(value, torch.Tensor):
                if not not_comparable(value):
                    self.recorder.before_write(value)
            elif isinstance(value, (list, tuple)):
                self._about_to_change(value)
