"""Modes that meet ops without bringing the compiler into a process that has none.

PyTorch wraps the handler of a mode so that its compiler leaves it alone, and the wrapper imports the compiler when the
first op is met: seconds, where no program was ever compiled.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from torch._compile import _disable_dynamo
from torch.utils._python_dispatch import TorchDispatchMode


class Mode(TorchDispatchMode):
    """A mode whose handler is kept from the compiler where there is one, and is called as it is where there is none."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__torch_dispatch__" in vars(cls):
            cls.__torch_dispatch__ = _kept_from_the_compiler(vars(cls)["__torch_dispatch__"])  # type: ignore[method-assign]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No wrapper that imports the compiler."""
        return False


def _kept_from_the_compiler(handler: Any) -> Any:
    kept = _disable_dynamo(handler, recursive=True)

    @functools.wraps(handler)
    def meet(*given: Any, **named: Any) -> Any:
        return (kept if "torch._dynamo" in sys.modules else handler)(*given, **named)

    return meet
