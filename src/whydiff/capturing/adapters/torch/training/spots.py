"""Where the tensors lie that are looked at in every step: how is found once, and again where one lies otherwise."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from whydiff.capturing.adapters.torch.collectives import local
from whydiff.capturing.adapters.torch.device.queue import usable
from whydiff.capturing.adapters.torch.dtypes import dtype_name, not_comparable, plain

_KNOWN = 4
"""Ways in which the tensors of a list may lie in turn (two optimizers, steps with and without some gradients)."""

HOST, ELSEWHERE = -1, -2
"""Places beside the numbers of GPUs: host memory, and devices on which no kernel of ours runs."""

_ITSELF, _LOCAL, _ASKED = 0, 1, 2


class Spot:
    """How one plain tensor lies.

    Attributes:
        kind: device and dtype.
        nbytes: of its elements.
        numel: elements; 0 if they are no floating-point numbers.
        straight: its elements lie in row-major order.
        place: where they are read: a GPU's number, `HOST` or `ELSEWHERE`.
        form: dtype and size, e.g. ``float32[4, 8]``.
    """

    __slots__ = ("form", "kind", "nbytes", "numel", "place", "straight")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.kind = tensor.device, tensor.dtype
        self.nbytes = tensor.numel() * tensor.element_size()
        self.numel = tensor.numel() if tensor.is_floating_point() else 0
        self.straight = tensor.is_contiguous()
        self.place = HOST if tensor.is_cpu else int(tensor.get_device()) if usable(tensor.device) else ELSEWHERE
        self.form = _form(tensor.dtype, tensor.shape)


class Layout:
    """How the plain tensors lie of which this process holds a list of tensors; none of them is held.

    Args:
        tensors: the list.
        ways: how each comes to plain ones (`_ways`).
        pieces: the plain tensors.
        counts: how many of them make up each tensor.

    Attributes:
        counts: as given; 0: it cannot be looked at.
        alone: each tensor is made of one.
        spots: of the plain tensors.
        sizes: bytes of each.
        places: place → which of them are read there.
        crooked: which of them do not lie in row-major order.
        forms: of each tensor, dtype and size of what it is made of.
        addresses: of the first elements, in the last step.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor], ways: bytes, pieces: list[torch.Tensor], counts: list[int]
    ) -> None:
        self._types, self._ways, self.counts = list(map(type, tensors)), ways, counts
        self.alone = all(count == 1 for count in counts)
        self.spots = [Spot(piece) for piece in pieces]
        self.sizes = [spot.nbytes for spot in self.spots]
        self.places = {
            place: [i for i, spot in enumerate(self.spots) if spot.place == place]
            for place in dict.fromkeys(spot.place for spot in self.spots)
        }
        self.crooked = [i for i, spot in enumerate(self.spots) if not spot.straight]
        self.addresses = [piece.data_ptr() for piece in pieces]
        self._refs = [weakref.ref(piece) for piece in pieces]
        self._columns = _columns(pieces)
        ends = iter(self.spots)
        self.forms = tuple(" ".join(next(ends).form for _ in range(count)) for count in counts)

    def again(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
        """The plain tensors of a list that lies as the first one did, wherever in memory; None: it does not.

        Places, sizes and strides are asked of every tensor; whether it is comparable of those that are others than in the
        step before. What is flipped lazily (`raw`) lies in memory as it would lie otherwise.
        """
        if list(map(type, tensors)) != self._types:
            return None
        pieces, counts = _pieces(tensors, self._ways)
        if counts != self.counts:
            return None
        same = list(map(is_, [ref() for ref in self._refs], pieces))
        if not all(same):
            if any(not_comparable(piece) for piece, known in zip(pieces, same, strict=True) if not known):
                return None
            self._refs = [weakref.ref(piece) for piece in pieces]
        if _columns(pieces) != self._columns:
            return None
        self.addresses = addresses = [piece.data_ptr() for piece in pieces]
        if 0 in addresses and any(size and not at for size, at in zip(self.sizes, addresses, strict=True)):
            return None
        return pieces


@dataclass(frozen=True, slots=True)
class Look:
    """What this process holds of a list of tensors in one step.

    Attributes:
        layout: how it lies.
        pieces: the plain tensors.
        addresses: of their first elements.
    """

    layout: Layout
    pieces: list[torch.Tensor]
    addresses: list[int]


class Spots:
    """How the tensors of one list lie, as far as that is known from the steps before."""

    def __init__(self) -> None:
        self._known: list[Layout] = []

    def of(self, tensors: Sequence[torch.Tensor]) -> Look:
        """Where the tensors lie now."""
        for i, layout in enumerate(self._known):
            pieces = layout.again(tensors)
            if pieces is not None:
                if i:
                    self._known.insert(0, self._known.pop(i))
                return Look(layout, pieces, layout.addresses)
        ways = bytes(map(_way, tensors))
        pieces, counts = _pieces(tensors, ways)
        layout = Layout(tensors, ways, pieces, counts)
        self._known = [layout, *self._known[: _KNOWN - 1]]
        return Look(layout, pieces, layout.addresses)


def held(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors of which this process holds a tensor; none if it cannot be looked at."""
    wrapper: Any = tensor
    if not plain(tensor) and is_traceable_wrapper_subclass(wrapper):
        names, _ = wrapper.__tensor_flatten__()
        inner = (getattr(wrapper, name) for name in names)  # a mesh may be among them
        return [piece for one in inner if isinstance(one, torch.Tensor) for piece in held(one)]
    return [] if not_comparable(tensor) or _hollow(tensor) else [tensor]


def _way(tensor: torch.Tensor) -> int:
    """How a tensor comes to plain ones: it is one, has one as its local part, or is asked every time."""
    part = local(tensor)
    if not plain(part) or _hollow(part):
        return _ASKED
    return _ITSELF if part is tensor else _LOCAL


def _pieces(tensors: Sequence[Any], ways: bytes) -> tuple[list[torch.Tensor], list[int]]:
    """The plain tensors of which tensors are made, and how many make up each."""
    if _ASKED not in ways:
        if _LOCAL not in ways:
            return list(tensors), [1] * len(tensors)
        found = [t._local_tensor if way else t for t, way in zip(tensors, ways, strict=True)]
        return found, [1] * len(found)
    parts = [held(local(t)) if way == _ASKED else [local(t)] for t, way in zip(tensors, ways, strict=True)]
    return [piece for part in parts for piece in part], list(map(len, parts))


def _hollow(tensor: torch.Tensor) -> bool:
    """Whether the memory of a tensor was given back, as shards do with what they gathered."""
    return tensor.numel() > 0 and not tensor.untyped_storage().nbytes()


def _columns(pieces: Sequence[torch.Tensor]) -> tuple[list[Any], ...]:
    """All that a `Spot` is made of."""
    return (
        [piece.dtype for piece in pieces],
        [piece.device for piece in pieces],
        [piece.shape for piece in pieces],
        [piece.stride() for piece in pieces],
    )


@functools.lru_cache(maxsize=4096)
def _form(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{dtype_name(dtype)}{list(shape)}"
