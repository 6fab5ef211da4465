"""What surrounds an op or a module call: tracers, fake tensors, modes of the user; and staying out of their sight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from whydiff.records import HoleKind

_Key: Any = torch._C._TorchDispatchModeKey
_FLAGS = (
    "old_dispatch_mode_flags",
    "old_non_infra_dispatch_mode_flags",
    "old_without_ignore_compile_internals_dispatch_mode_flags",
)
"""Where a mode keeps what torch knew before it was entered, newest torch first."""
jit_tracing: Any = torch._C._get_tracing_state
modes_below: Any = torch._C._len_torch_dispatch_stack
_stack_at: Any = torch._C._get_dispatch_stack_at
function_modes: Any = torch._C._len_torch_function_stack
_current_node: Any = torch._C._current_autograd_node


def tracing() -> HoleKind | None:
    """Whether the program is being traced (``tracing``), or runs without numbers (``fake``)."""
    if jit_tracing() is not None or torch.compiler.is_compiling():
        return "tracing"
    if modes_below():
        if _mode(_Key.PROXY) or _mode(_Key.FUNCTIONAL):
            return "tracing"
        if _mode(_Key.FAKE):
            return "fake"
    if torch._ops._len_torch_dispatch_stack_pre_dispatch():
        return "tracing"
    return None


def compiled_backward() -> bool:
    """Whether the autograd node that runs now is the backward pass of a compiled function."""
    node = _current_node()
    return node is not None and type(node).__name__ == "CompiledFunctionBackward"


def _mode(key: Any) -> bool:
    return torch._C._get_dispatch_mode(key) is not None


@contextmanager
def unseen() -> Iterator[None]:
    """A block whose torch calls no mode and no subclass of the user sees, nor any that is active."""
    with torch._C.DisableTorchFunction():
        if modes_below():
            with _disable_current_modes():
                yield
        else:
            yield


def take_out(mode: TorchDispatchMode) -> list[TorchDispatchMode] | None:
    """Take a mode off this thread's stack, wherever in it it lies.

    Returns:
        the modes above it, outermost first, for `put_back`; None if it is not on the stack.
    """
    depth = modes_below()
    if depth and _stack_at(depth - 1) is mode:
        TorchDispatchMode.__exit__(mode, None, None, None)
        return []
    stack = [_stack_at(place) for place in range(depth)]
    if not any(held is mode for held in stack):
        return None
    place = next(number for number, held in enumerate(stack) if held is mode)
    above: list[TorchDispatchMode] = stack[place + 1 :]
    for _ in above:
        _python_dispatch._pop_mode()
    _python_dispatch._pop_mode()
    for name in _FLAGS:  # who comes next knows what this one knew
        if name in vars(mode) and vars(above[0]).get(name):
            vars(above[0])[name][-1] = vars(mode)[name].pop()
    for held in above:
        _python_dispatch._push_mode(held)
    return above


def put_back(mode: TorchDispatchMode, above: list[TorchDispatchMode]) -> None:
    """Put a mode back on the stack, below those that were above it."""
    for _ in above:
        _python_dispatch._pop_mode()
    TorchDispatchMode.__enter__(mode)
    for name in _FLAGS:
        if above and name in vars(mode) and vars(above[0]).get(name):
            held = vars(above[0])[name]
            vars(mode)[name][-1], held[-1] = held[-1], True
    for held_mode in above:
        _python_dispatch._push_mode(held_mode)
