"""Two functions held against each other by plain calculation in float64: the truth of a score, without whydiff."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

SAME, OTHER = 1e-9, 1e-6
"""Relative to the largest value: at most this far apart in float64 is one function; at least this far is another
(16 units of float32); what lies between is no pair of a score."""


def lifted(tree: Any) -> Any:
    """The same values (and dtypes asked for) in double precision."""
    double = {torch.float32: torch.float64, torch.bfloat16: torch.float64, torch.complex64: torch.complex128}

    def one(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return x.detach().clone().to(double.get(x.dtype, x.dtype))
        return double.get(x, x) if isinstance(x, torch.dtype) else x

    return tree_map(one, tree)


def called(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> list[np.ndarray]:
    """What a function returns for copies of its arguments, from one random state."""
    torch.manual_seed(0)
    args, kwargs = tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, (tuple(args), dict(kwargs)))
    with torch.no_grad():
        leaves = tree_leaves(function(*args, **kwargs))
    return [_array(leaf) for leaf in leaves if leaf is not None]


def _array(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, torch.Tensor):
        return np.asarray(leaf)
    dense = leaf.detach().to_dense() if leaf.layout is not torch.strided else leaf.detach()
    dense = dense.resolve_conj().resolve_neg()
    return (dense.float() if dense.dtype in (torch.bfloat16, torch.float16) else dense).numpy()


def apart(reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray]) -> float | None:
    """Largest difference by the largest finite value; None: other shapes, dtypes or numbers of outputs."""
    if [(a.shape, a.dtype) for a in reference] != [(b.shape, b.dtype) for b in candidate]:
        return None
    return max((_apart(a, b) for a, b in zip(reference, candidate, strict=True)), default=None)


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    if not np.issubdtype(a.dtype, np.number):
        return 0.0 if bool(np.all(a == b)) else math.inf
    if a.dtype.kind in "iu":
        a, b = a.astype(np.float64), b.astype(np.float64)
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.all(equal | finite):
        return math.inf
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.where(equal, 0.0, np.abs(a - b))
        return float(far.max(initial=0.0) / max(np.abs(a[finite]).max(initial=0.0), np.finfo(np.float64).tiny))
