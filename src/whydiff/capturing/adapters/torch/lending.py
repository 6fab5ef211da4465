"""Memory of tensors that torch lends to others: numpy, a library that takes its address, whoever speaks DLPack.

They write into it and torch does not know: no op is dispatched and no version is counted. Where a program asks for such
a loan is seen while somebody listens, by three functions of its own in the place of torch's; torch is as it was when
nobody does. Who holds an address or a DLPack capsule may write at any time from then on; an array of numpy only while it
lives, which a weak reference tells.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch.overrides import handle_torch_function, has_torch_function_unary


class Listener(Protocol):
    """Who wants to know of loans on its thread."""

    thread: int

    def lent(self, tensor: torch.Tensor, array: Any) -> None:
        """A tensor's memory is lent: to an array that shows it, or (None) to somebody who may keep it."""


_Asked = Callable[..., Any]
_listeners: list[Listener] = []
_dlpack: Any = torch.utils.dlpack
_PLACES: tuple[tuple[Any, str], ...] = (
    (torch.Tensor, "numpy"),
    (torch.Tensor, "data_ptr"),
    (torch.Tensor, "__dlpack__"),
    (_dlpack, "to_dlpack"),
    (torch, "to_dlpack"),
)
"""Where a program asks for a loan."""
_ABSENT = object()
_standing: list[tuple[Any, str, _Asked, Any]] = []
"""What stands there while somebody listens: owner, name, ours, and what the owner itself had there."""


def listen(listener: Listener) -> None:
    """Tell somebody of every loan on its thread."""
    if not _listeners:
        for owner, name in _PLACES:
            before, ours = vars(owner).get(name, _ABSENT), _telling(getattr(owner, name), method=owner is torch.Tensor)
            setattr(owner, name, ours)
            _standing.append((owner, name, ours, before))
    _listeners.append(listener)


def leave(listener: Listener) -> None:
    """Tell it no more, of what it asked for last."""
    last = max((number for number, held in enumerate(_listeners) if held is listener), default=-1)
    if last >= 0:
        del _listeners[last]
    while _standing and not _listeners:
        owner, name, ours, before = _standing.pop()
        if vars(owner).get(name) is not ours:
            continue  # somebody put another there meanwhile, which calls ours
        if before is _ABSENT:
            delattr(owner, name)  # that of its base is there again
        else:
            setattr(owner, name, before)


def _telling(asked: _Asked, *, method: bool) -> _Asked:
    """A function that does what ``asked`` does, and tells of it."""
    by_name = method and (not isinstance(asked, types.FunctionType) or asked.__module__ == torch._tensor.__name__)

    @functools.wraps(asked)
    def telling(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if by_name and isinstance(tensor, torch.Tensor) and has_torch_function_unary(tensor):
            found = handle_torch_function(asked, (tensor,), tensor, *args, **kwargs)  # not ours, which it would look up
        else:
            found = asked(tensor, *args, **kwargs)
        _tell(tensor, found if isinstance(found, np.ndarray) else None)
        return found

    return telling


def _tell(tensor: torch.Tensor, array: Any) -> None:
    here = threading.get_ident()
    for listener in tuple(_listeners):
        if listener.thread == here:
            listener.lent(tensor, array)
