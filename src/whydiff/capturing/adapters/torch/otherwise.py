"""Interventions on how a live program is compiled, and what puts into an uncompiled program what its compiler does."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from whydiff.capturing.adapters.contract import Way
from whydiff.capturing.adapters.torch.climbing import EAGER, LAST, Climbing, compiled_alone
from whydiff.capturing.adapters.torch.compiled import can_be_changed
from whydiff.capturing.adapters.torch.dtypes import dtype_of
from whydiff.capturing.adapters.torch.modes import Mode
from whydiff.records import Intervention

_DRAWS = torch.Tag.nondeterministic_seeded


class _Instead(Mode):
    """Carries some operators out in another way; the compiler must stand back, or gives up on what runs inside for good.

    Args:
        way: gives what takes an operator's place; None: nothing does.
    """

    def __init__(self, way: Callable[[Any], Callable[..., Any] | None]) -> None:
        super().__init__()
        self._way = way

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        other = self._way(func)
        with _disable_current_modes():
            return (other or func)(*args, **(kwargs or {}))


@contextmanager
def decomposed(name: str) -> Iterator[None]:
    """A block in which an operator is carried out by the compiler's decomposition of it, and nothing is compiled."""
    op = operator.attrgetter(name)(torch.ops)
    table = importlib.import_module("torch._inductor.decomposition").select_decomp_table()
    with Climbing(Way(EAGER)), _Instead(lambda func: table.get(op) if func is op else None):
        yield


@contextmanager
def drawn_as_compiled() -> Iterator[None]:
    """A block in which every operator that draws random numbers is compiled, alone, and nothing else is."""

    def alone(func: Any) -> Callable[..., Any] | None:
        if _DRAWS not in func.tags:
            return None
        return torch.compile(lambda *args, **kwargs: func(*args, **kwargs), backend=compiled_alone)

    with Climbing(Way(EAGER)), _Instead(alone):
        yield


@contextmanager
def autocast_off() -> Iterator[None]:
    """A block in which entering a region of autocast changes nothing."""

    def off(region: Any) -> None:
        region._enabled = False

    with _entering_autocast(off):
        yield


@contextmanager
def regions_of_autocast() -> Iterator[list[Any]]:
    """A block, with the regions of autocast that are entered in it."""
    found = list[Any]()
    with _entering_autocast(found.append):
        yield found


@contextmanager
def _entering_autocast(first: Callable[[Any], None]) -> Iterator[None]:
    """A block in which something is done to a region of autocast before it is entered."""
    autocast: Any = torch.amp.autocast_mode.autocast
    enter = autocast.__enter__

    def entered(self: Any) -> Any:
        first(self)
        return enter(self)

    autocast.__enter__ = entered
    try:
        yield
    finally:
        autocast.__enter__ = enter


def autocast_on(name: str) -> AbstractContextManager[Any]:
    """A block under autocast to a dtype, on the device that PyTorch computes on."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.autocast("cpu" if device is None else device.type, dtype_of(name))


_WAYS: Mapping[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "round-in-place": lambda _: Climbing(Way(LAST, ("excess-precision",))),
    "trace-anew": lambda _: Climbing(Way(LAST)),
    "draw-uncompiled": lambda _: Climbing(Way(LAST, ("random",))),
    "without-decomposition": lambda op: Climbing(Way(LAST, ("decomposition",), only=op)),
    "decompose": decomposed,
    "draw-compiled": lambda _: drawn_as_compiled(),
    "autocast-off": lambda _: autocast_off(),
    "autocast-on": autocast_on,
}


def knows(intervention: Intervention) -> bool:
    """Whether `otherwise` carries this out: the compiler was used in this process, and can be told."""
    return intervention.name in _WAYS and can_be_changed()


def otherwise(intervention: Intervention) -> AbstractContextManager[Any]:
    """A block in which one of these interventions is carried out."""
    return _WAYS[intervention.name](intervention.value)
