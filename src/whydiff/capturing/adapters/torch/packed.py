"""Tensors that an object of a library keeps and computes with: the bias inside the packed weights of a quantised layer."""

from __future__ import annotations

from typing import Any

import torch

from whydiff.capturing.adapters.torch.dtypes import not_comparable
from whydiff.capturing.adapters.torch.outputs import tensors_in


def shown(value: Any) -> list[tuple[str, torch.Tensor]]:
    """(path, tensor) of everything that a ``torch.ScriptObject``'s own state shows; empty for one that shows none."""
    if "__getstate__" not in value._method_names():
        return []
    try:
        return list(tensors_in(value.__getstate__()))
    except (RuntimeError, NotImplementedError):  # it cannot be written down: an op that takes it is counted as such
        return []


def kept(value: Any) -> list[tuple[str, torch.Tensor]]:
    """(path, tensor) of what an object shows in memory of its own.

    What it makes anew whenever it is asked (weights, out of a layout of its own) is left out: nobody can put another
    one in its place.
    """
    once, again = shown(value), shown(value)
    return [
        (path, tensor)
        for (path, tensor), (_, other) in zip(once, again, strict=True)
        if tensor.numel() and not not_comparable(tensor) and tensor.data_ptr() == other.data_ptr()
    ]
