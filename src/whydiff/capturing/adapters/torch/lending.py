"""Memory of tensors that torch lends to others: numpy, a library that takes its address, whoever speaks DLPack.

They write into it and torch does not know: no op is dispatched and no version is counted. Where a program asks for such
a loan is seen while somebody listens, by three functions of its own in the place of torch's; torch is as it was when
nobody does. Who holds an address or a DLPack capsule may write at any time from then on; an array of numpy only while it
lives, which a weak reference tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Listener(Protocol):
    """Who wants to know of loans on its thread."""

    thread: int

    def lent(self, tensor: torch.Tensor, array: Any) -> None:
        """A tensor's memory is lent: to an array that shows it, or (None) to somebody who may keep it."""


_listeners: list[Listener] = []
_numpy: Callable[..., Any] = torch.Tensor.numpy
_address: Callable[..., int] = torch.Tensor.data_ptr
_capsule: Callable[..., Any] = torch.Tensor.__dlpack__
_dlpack: Any = torch.utils.dlpack
_torch: Any = torch
_to_capsule: Callable[..., Any] = _dlpack.to_dlpack


def listen(listener: Listener) -> None:
    """Tell somebody of every loan on its thread."""
    if not _listeners:
        _torch.Tensor.numpy, _torch.Tensor.data_ptr, _torch.Tensor.__dlpack__ = _to_numpy, _at, _in_capsule
        _dlpack.to_dlpack = _torch.to_dlpack = _made_capsule
    _listeners.append(listener)


def leave(listener: Listener) -> None:
    """Tell it no more."""
    _listeners[:] = [held for held in _listeners if held is not listener]
    if not _listeners and vars(torch.Tensor).get("numpy") is _to_numpy:
        del _torch.Tensor.numpy, _torch.Tensor.data_ptr  # those of its base are there again
        _torch.Tensor.__dlpack__ = _capsule
        _dlpack.to_dlpack = _torch.to_dlpack = _to_capsule


def _tell(tensor: torch.Tensor, array: Any = None) -> None:
    here = threading.get_ident()
    for listener in tuple(_listeners):
        if listener.thread == here:
            listener.lent(tensor, array)


def _to_numpy(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    array = _numpy(self, *args, **kwargs)
    _tell(self, array)
    return array


def _at(self: torch.Tensor) -> int:
    _tell(self)
    return _address(self)


def _in_capsule(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    _tell(self)
    return _capsule(self, *args, **kwargs)


def _made_capsule(tensor: torch.Tensor) -> Any:
    _tell(tensor)
    return _to_capsule(tensor)
