"""Where tensors lie that are looked at in every step: found once, and again where one was replaced or moved."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from whydiff.capturing.adapters.torch.collectives import local
from whydiff.capturing.adapters.torch.device.queue import Lanes, Pending, Queue, usable
from whydiff.capturing.adapters.torch.dtypes import dtype_name, not_comparable, plain
from whydiff.capturing.adapters.torch.fingerprints import row_major


class Spot:
    """Where one plain tensor lies; the tensor itself is not held.

    Attributes:
        span: first byte in its storage, last byte + 1; None: its elements do not lie in row-major order.
        numel: elements; 0 if they are no floating-point numbers.
        kind: device and dtype.
    """

    __slots__ = ("_address", "_device", "_shape", "_strides", "_tensor", "alone", "kind", "numel", "span")

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = weakref.ref(tensor)
        self._address, self._shape, self._strides = tensor.data_ptr(), tensor.shape, tensor.stride()
        self.kind = tensor.device, tensor.dtype
        self.numel = tensor.numel() if tensor.is_floating_point() else 0
        self._device = int(tensor.get_device()) if not tensor.is_cpu and usable(tensor.device) else -1
        dense, low, high = row_major(tensor)
        self.span = (low, high) if dense is tensor else None
        self.alone = (self,)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is the one of this spot, and lies as it did."""
        return (
            self._tensor() is tensor
            and tensor.data_ptr() == self._address
            and tensor.shape == self._shape
            and tensor.stride() == self._strides
            and tensor.dtype is self.kind[1]
        )

    def queue(self, tensor: torch.Tensor, queue: Queue) -> Lanes | Pending | None:
        """Note the tensor of this spot to be read by a queue, which reads it before the program goes on.

        Returns:
            What `Queue.add` does.
        """
        if self.span is None or self.span[0] == self.span[1]:
            return queue.add(*row_major(tensor))
        return queue.note(tensor.untyped_storage(), self._device, self._address, self.span[1] - self.span[0])

    @property
    def queued(self) -> bool:
        """Whether it lies where a queue reads it."""
        return self._device >= 0

    @property
    def form(self) -> str:
        """Dtype and size, e.g. ``float32[4, 8]``."""
        return _form(self.kind[1], self._shape)


Held = tuple[Sequence[torch.Tensor], Sequence[Spot]]
"""The plain tensors of which this process holds a tensor, and where they lie."""


class Spots:
    """What is known of the tensors of a step from the step before."""

    def __init__(self) -> None:
        self._before: dict[int, Spot] = {}
        self._now: dict[int, Spot] = {}

    def begin(self) -> None:
        """A further step: what the last one did not ask for is forgotten."""
        self._before, self._now = self._now, {}

    def of(self, tensor: torch.Tensor) -> Held:
        """The plain tensors of which this process holds a tensor (none if it cannot be looked at), and where they lie."""
        piece = local(tensor)
        spot = self._before.get(id(piece))
        if spot is not None and spot.holds(piece):
            self._now[id(piece)] = spot
            return (piece,), spot.alone
        pieces = held(piece)
        found = [Spot(one) for one in pieces]
        if len(pieces) == 1 and pieces[0] is piece:
            self._now[id(piece)] = found[0]
        return pieces, found


def held(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors of which this process holds a tensor; none if it cannot be looked at."""
    if plain(tensor):
        return [tensor]
    wrapper: Any = tensor
    if is_traceable_wrapper_subclass(wrapper):
        names, _ = wrapper.__tensor_flatten__()
        inner = (getattr(wrapper, name) for name in names)  # a mesh may be among them
        return [piece for one in inner if isinstance(one, torch.Tensor) for piece in held(one)]
    return [] if not_comparable(tensor) else [tensor]


def form(spots: Sequence[Spot]) -> str:
    """Dtypes and sizes of what this process holds of a tensor, e.g. ``float32[4, 8]``."""
    return " ".join(spot.form for spot in spots)


@functools.lru_cache(maxsize=4096)
def _form(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{dtype_name(dtype)}{list(shape)}"
