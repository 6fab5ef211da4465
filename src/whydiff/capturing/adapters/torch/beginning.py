"""What a program may change, as it was, and the way back.

Contents of tensors are kept by the capture, copied only when an op is about to change them (`LiveLeaf`), and for a run
that nobody watches by `Contents`. `Beginning` keeps the rest: which objects hang where (attributes, lists, dicts, sets,
closure cells), which memory a tensor shows, gradients, ``requires_grad``, generators; `Process` keeps what the process
has once.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from whydiff.capturing import process
from whydiff.capturing.adapters._live import reached_by
from whydiff.capturing.adapters.torch.dtypes import not_comparable
from whydiff.capturing.adapters.torch.process import Process

_DEPTH = 4
"""Plain objects and functions are followed this deep; modules, optimizers and containers do not count."""
_OPAQUE = (str, bytes, bytearray, int, float, complex, bool, type(None), type, types.ModuleType, range, np.ndarray)
_KINDS = frozenset(_OPAQUE)
_MAPPINGS = frozenset((dict, OrderedDict))
_NOTHING: dict[Any, Any] = {}
_FREE = (torch.nn.Module, torch.optim.Optimizer, dict, list, tuple, set, frozenset, functools.partial)


class Beginning:
    """Remembers on construction, puts back in `restore`; the user's own objects come back, not copies.

    Args:
        things: targets, modules, optimizers, arguments … with all they reach.
    """

    def __init__(self, things: Iterable[Any]) -> None:
        self.optimizers: list[torch.optim.Optimizer] = []
        self._processes = process.Process(), Process()
        self._dicts: list[tuple[Any, Any]] = []
        self._sequences: list[tuple[Any, list[Any]]] = []
        self._sets: list[tuple[set[Any], set[Any]]] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self._tensors: list[tuple[torch.Tensor, torch.Tensor | None, bool, torch.Tensor | None]] = []
        self._generators: list[tuple[torch.Generator, torch.Tensor]] = []
        self._seen: set[int] = set()
        waiting = [(thing, 0) for thing in things]
        while waiting:  # breadth first, so that depth is the shortest way
            following = []
            for value, depth in waiting:
                if type(value) in _KINDS or depth > _DEPTH or id(value) in self._seen:
                    continue
                if type(value) in _MAPPINGS and not value:  # the hooks that a module does not have
                    self._seen.add(id(value))
                    self._dicts.append((value, _NOTHING))
                elif not isinstance(value, _OPAQUE):
                    self._seen.add(id(value))
                    below = depth + (not isinstance(value, _FREE))
                    following += [(item, below) for item in self._keep(value)]
            waiting = following

    def _keep(self, value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            self._dicts.append((value, dict(value)))
            yield from value.values()
        elif isinstance(value, torch.Tensor):
            self._keep_tensor(value)
        elif isinstance(value, functools.partial):
            yield from (value.func, value.args, value.keywords)
        elif isinstance(value, types.MethodType):
            yield from (value.__self__, value.__func__)
        elif isinstance(value, types.FunctionType):
            for cell in value.__closure__ or ():
                try:
                    self._cells.append((cell, cell.cell_contents))
                except ValueError:  # an empty cell holds nothing yet
                    continue
            yield from (item for _, item in reached_by(value))
        elif isinstance(value, list):
            self._sequences.append((value, list(value)))
            yield from value
        elif isinstance(value, (tuple, frozenset)):
            yield from value
        elif isinstance(value, set):
            self._sets.append((value, set(value)))
            yield from value
        elif isinstance(value, torch.Generator):
            self._generators.append((value, value.get_state()))
        if isinstance(value, torch.optim.Optimizer):
            self.optimizers.append(value)
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and not isinstance(value, (types.FunctionType, torch.Tensor)):
            yield attributes

    def _keep_tensor(self, tensor: torch.Tensor) -> None:
        gradient = tensor.grad if tensor.is_leaf and tensor.requires_grad else None
        if gradient is not None and id(gradient) not in self._seen:  # put back before the tensor, which it must fit
            self._seen.add(id(gradient))
            self._keep_tensor(gradient)
        look = None if not_comparable(tensor) else tensor.detach()
        self._tensors.append((tensor, look, tensor.requires_grad, gradient))

    def tensors(self) -> list[torch.Tensor]:
        """Every tensor that the things reach, gradients included."""
        return [held for tensor, _, _, gradient in self._tensors for held in (tensor, gradient) if held is not None]

    def restore(self) -> None:
        """Put everything back that changed."""
        for mapping, content in self._dicts:
            if not mapping and not content:
                continue
            if len(mapping) != len(content) or any(
                key is not old_key or item is not old_item
                for (key, item), (old_key, old_item) in zip(mapping.items(), content.items(), strict=True)
            ):
                mapping.clear()
                mapping.update(content)
        for sequence, items in self._sequences:
            if len(sequence) != len(items) or any(a is not b for a, b in zip(sequence, items, strict=True)):
                sequence[:] = items
        for members, before in self._sets:
            if members != before:
                members.clear()
                members.update(before)
        for cell, item in self._cells:
            cell.cell_contents = item
        for tensor, look, requires_grad, gradient in self._tensors:
            _restore_tensor(tensor, look, requires_grad, gradient)
        for generator, state in self._generators:
            generator.set_state(state)
        for kept in self._processes:
            kept.restore()


def _restore_tensor(
    tensor: torch.Tensor, look: torch.Tensor | None, requires_grad: bool, gradient: torch.Tensor | None
) -> None:
    if look is not None and not _shows_the_same(tensor, look):
        tensor.data = look
    if tensor.is_leaf:
        if tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        if requires_grad and tensor.grad is not gradient:
            tensor.grad = gradient


def _shows_the_same(tensor: torch.Tensor, look: torch.Tensor) -> bool:
    return (
        tensor.untyped_storage()._cdata == look.untyped_storage()._cdata
        and tensor.dtype == look.dtype
        and tensor.shape == look.shape
        and tensor.stride() == look.stride()
        and tensor.storage_offset() == look.storage_offset()
    )


_Kept = tuple[torch.UntypedStorage, torch.Tensor]


class Contents:
    """What tensors hold before a run that nobody watches: copies on their device, else (no room) on the host.

    A capture copies a tensor only when an op is about to change it. A plain run tells nobody, and a write that torch does
    not dispatch (through numpy, by a foreign kernel) tells no capture either. So before the first plain run everything that
    the program reaches is copied; afterwards only what it changed is kept.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        found: dict[int, torch.UntypedStorage] = {}
        for tensor in tensors:
            if not not_comparable(tensor):
                storage = tensor.untyped_storage()
                if storage.nbytes():
                    found.setdefault(storage._cdata, storage)
        self._kept: list[_Kept] = [(storage, _copy(storage)) for storage in found.values()]

    def put_back(self) -> None:
        """Write back what changed, and forget what did not."""
        changed = []
        with torch.inference_mode(False), torch.no_grad():
            for storage, before in self._kept:
                resized = storage.nbytes() != before.numel()
                if resized:
                    storage.resize_(before.numel())
                now = _bytes(storage)
                if resized or not _equal(now, before.to(now.device)):
                    now.copy_(before)
                    changed.append((storage, before))
        self._kept = changed


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _equal(now: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether the bytes are the same; eight at a time where that divides them: a quarter of the time."""
    if all(held.numel() % 8 == 0 and held.data_ptr() % 8 == 0 for held in (now, before)):
        now, before = now.view(torch.int64), before.view(torch.int64)
    return torch.equal(now, before)


def _copy(storage: torch.UntypedStorage) -> torch.Tensor:
    now = _bytes(storage)
    try:
        return now.clone()
    except torch.cuda.OutOfMemoryError:
        return now.cpu()
