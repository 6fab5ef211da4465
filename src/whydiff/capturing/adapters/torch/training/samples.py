"""A sample of parameters and of their gradients, taken at fixed places in every step, and not waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from whydiff.capturing.adapters.torch.training.spots import Layout, Look

_SAMPLED = 1024
"""Elements of all parameters together that are kept of every step."""

Kind = tuple[torch.device, torch.dtype]
Numbers = np.ndarray[Any, np.dtype[np.float32]]


class Plan:
    """Which elements are kept: as many from one another in all tensors, and the first of each.

    Args:
        weights: how the parameters lie; what is made of several plain tensors, or of no floating-point numbers, is left out.
        slopes: how those gradients lie that there are.
        having: the number of the parameter whose gradient each is.

    Attributes:
        count: elements of the parameters.
        share: how many elements each stands for.
        takes: kind → (which piece of parameters and gradients, how many elements, whether it lies straight) of each.
        at: kind → where they stand in the sample of the parameters, and behind it of the gradients.
        stride: from one to the next.
    """

    def __init__(self, weights: Layout, slopes: Layout, having: Sequence[int]) -> None:
        self.made_for = weights, slopes, list(having)
        first, second = _alone(weights), _alone(slopes)
        numel = {i: weights.spots[piece].numel for i, piece in first.items() if weights.spots[piece].numel}
        total = sum(numel.values())
        self.stride = max(1, total // _SAMPLED)
        counts = {i: -(-size // self.stride) for i, size in numel.items()}
        self.count = sum(counts.values())
        self.share = total / self.count if self.count else 1.0
        begins = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
        slope_of = {i: second[number] for number, i in enumerate(having) if number in second}
        self.takes: dict[Kind, list[tuple[int, tuple[int], bool]]] = {}
        at: dict[Kind, list[np.ndarray[Any, Any]]] = {}
        for side, (layout, pieces) in enumerate(((weights, first), (slopes, slope_of))):
            for i, size in counts.items():
                spot = layout.spots[pieces[i]] if i in pieces else None
                if spot is None or spot.numel != numel[i]:
                    continue
                piece = pieces[i] + side * len(weights.spots)
                self.takes.setdefault(spot.kind, []).append((piece, (size,), spot.straight))
                at.setdefault(spot.kind, []).append(np.arange(size) + (side * self.count + begins[i]))
        self.at = {kind: np.concatenate(parts) for kind, parts in at.items()}

    def fits(self, weights: Layout, slopes: Layout, having: Sequence[int]) -> bool:
        """Whether it is one for tensors that lie so."""
        return self.made_for[0] is weights and self.made_for[1] is slopes and self.made_for[2] == having


class Sample:
    """The elements, on their way to the host.

    Args:
        plan: which ones.
        weights, slopes: where the parameters and the gradients lie now.
    """

    def __init__(self, plan: Plan, weights: Look, slopes: Look) -> None:
        self._plan = plan
        pieces, step = [*weights.pieces, *slopes.pieces], (plan.stride,)
        with torch.inference_mode():  # a look at a parameter costs a third without what autograd notes of it
            parts = {
                kind: [
                    pieces[i].as_strided(size, step) if straight else pieces[i].reshape(-1)[:: plan.stride]
                    for i, size, straight in takes
                ]
                for kind, takes in plan.takes.items()
            }
            self._sent = Sent([_joined(kind, found) for kind, found in parts.items()])

    def read(self) -> tuple[Numbers, Numbers]:
        """Of the parameters and of their gradients, float32 `[k]` each; NaN where there is no gradient."""
        found = np.full(2 * self._plan.count, np.nan, dtype=np.float32)
        for places, values in zip(self._plan.at.values(), self._sent.read(), strict=True):
            found[places] = values.to(torch.float32).numpy()
        return found[: self._plan.count], found[self._plan.count :]


class Sent:
    """Small tensors on their way to the host; those of a GPU are not waited for before they are read."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._copies: list[torch.Tensor] = []
        self._events: dict[torch.device, torch.cuda.Event] = {}
        for tensor in tensors:
            if tensor.device.type != "cuda":
                self._copies.append(tensor.to("cpu", copy=True))
                continue
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
            with torch.cuda.device(tensor.device):
                copy.copy_(tensor, non_blocking=True)
                self._events.setdefault(tensor.device, torch.cuda.Event()).record()
            self._copies.append(copy)

    def read(self) -> list[torch.Tensor]:
        """The same, on the host."""
        for event in self._events.values():
            event.synchronize()
        return self._copies


def _joined(kind: Kind, parts: list[torch.Tensor]) -> torch.Tensor:
    """New memory; 8-bit floats as float32: few ops take them."""
    return torch.cat(parts if kind[1].itemsize > 1 else [part.to(torch.float32) for part in parts])


def _alone(layout: Layout) -> dict[int, int]:
    """Number of a tensor that is made of one plain one → the number of that one."""
    found, piece = {}, 0
    for i, count in enumerate(layout.counts):
        if count == 1:
            found[i] = piece
        piece += count
    return found


__all__ = ["Plan", "Sample", "Sent"]
