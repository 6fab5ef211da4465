"""Compiled code (and export) while a program is captured: it runs as without a capture, and is seen from outside.

Where torch enters a compiled function it sets and asks for the callback that is in force, by three functions of its
own. While anyone listens these tell it: at the beginning its recorder and the hooks on modules step aside, so that the
compiler meets the program alone; at the end it is told what went in and what came out. A torch without these three
(before 2.6) runs compiled functions as its compiler does under a mode: uncompiled.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import torch

from whydiff.capturing.adapters.torch.scopes import follow, stand_aside

_ENTER, _ASK, _LEAVE = "set_eval_frame", "_callback_from_stance", "_maybe_set_eval_frame"
_LOCALS = frozenset({"args", "kwargs", "callback", "fn"})
"""What the frame of a compiled function's wrapper knows."""


class Listener(Protocol):
    """Who wants to know of compiled regions on its thread."""

    thread: int

    def region_begins(self, name: str, exporting: bool, args: Any, kwargs: Any) -> None: ...

    def region_ends(self, name: str, exporting: bool, result: Any) -> None: ...


class _Region:
    def __init__(self, frame: FrameType, listeners: list[Listener]) -> None:
        self.frame, self.listeners = frame, listeners
        self.asked = self.begun = False
        known = frame.f_locals
        self.name = getattr(known.get("fn"), "__qualname__", "compiled")
        self.exporting = bool(getattr(known.get("self"), "export", False))
        self.args, self.kwargs = known.get("args", ()), known.get("kwargs", {})


_listeners: list[Listener] = []
_open: list[_Region] = []
_original: dict[str, Callable[..., Any]] = {}
_compile: Callable[..., Any] = torch.compile
_export: Callable[..., Any] = torch.export.export


def listen(listener: Listener) -> None:
    """Tell somebody of every compiled region that begins on its thread."""
    global _compile, _export
    if not _listeners:
        _compile = torch.compile
        torch.compile = functools.wraps(_compile)(_compiling)
        _export = torch.export.export
        torch.export.export = functools.wraps(_export)(_exporting)
    _listeners.append(listener)
    _patch()


def leave(listener: Listener) -> None:
    """Tell it no more; torch is as it was when nobody listens."""
    if listener in _listeners:
        _listeners.remove(listener)
    if _listeners:
        return
    if getattr(torch.compile, "__wrapped__", None) is _compile:
        torch.compile = _compile
    if getattr(torch.export.export, "__wrapped__", None) is _export:
        torch.export.export = _export
    frames: Any = sys.modules.get("torch._dynamo.eval_frame")
    for name, function in _original.items():
        setattr(frames, name, function)
    _original.clear()


def inside() -> bool:
    """Whether a compiled region is open on this thread, so that what runs is the compiler's business."""
    here = threading.get_ident()
    return any(listener.thread == here for region in _open for listener in region.listeners)


def _patch() -> None:
    """Begin to listen as soon as there is a compiler (it is imported when a program first asks for it)."""
    frames: Any = sys.modules.get("torch._dynamo.eval_frame")
    if (
        frames is None
        or "torch._dynamo.decorators" not in sys.modules
        or _original
        or not all(name in vars(frames) for name in (_ENTER, _ASK, _LEAVE))
    ):
        return
    decorators: Any = sys.modules["torch._dynamo.decorators"]
    decorators.skip_code(_entering.__code__)
    for name, function in ((_ENTER, _entering), (_ASK, _asking), (_LEAVE, _leaving)):
        _original[name] = vars(frames)[name]
        setattr(frames, name, function)


def _compiling(*args: Any, **kwargs: Any) -> Any:
    stand_aside()  # what is compiled is the program's own call
    try:
        return _compile(*args, **kwargs)
    finally:
        if _listeners:
            _patch()
        if not inside():
            follow()


def _exporting(*args: Any, **kwargs: Any) -> Any:
    here = threading.get_ident()
    listeners = [] if inside() else [listener for listener in _listeners if listener.thread == here]
    region = _Region(sys._getframe(), listeners)
    _open.append(region)
    try:
        for listener in listeners:
            listener.region_begins("export", True, (), {})
        return _export(*args, **kwargs)
    finally:
        for listener in reversed(listeners):
            listener.region_ends("export", True, None)
        _open.remove(region)


def _entering(callback: Any) -> Any:
    prior = _original[_ENTER](callback)  # first: from here on nobody compiles what runs here
    frame = sys._getframe(1)
    if callback is None and frame.f_locals.keys() >= _LOCALS and not inside():
        asked = _original[_ASK](frame.f_locals["callback"])
        here = threading.get_ident()
        listeners = [listener for listener in _listeners if listener.thread == here]
        if listeners and asked is not None and asked is not False and all(r.frame is not frame for r in _open):
            region = _Region(frame, listeners)
            _open.append(region)
            for listener in listeners:
                listener.region_begins(region.name, region.exporting, region.args, region.kwargs)
    return prior


def _asking(callback: Any) -> Any:
    region = _region_of(sys._getframe(1))
    if region is not None:
        region.asked = True
    return _original[_ASK](callback)


def _region_of(frame: FrameType) -> _Region | None:
    return next((region for region in reversed(_open) if region.frame is frame), None)


def _leaving(callback: Any) -> Any:
    frame = sys._getframe(1)
    region = _region_of(frame)
    if region is not None and region.asked and not region.begun:
        region.begun = True
    elif region is not None:
        _open.remove(region)
        for listener in reversed(region.listeners):
            listener.region_ends(region.name, region.exporting, frame.f_locals.get("result"))
        region.args = region.kwargs = None
    return _original[_LEAVE](callback) if _original else vars(sys.modules["torch._dynamo.eval_frame"])[_LEAVE](callback)
