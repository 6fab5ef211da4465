"""Orbax: the tree of arrays of one checkpoint's folder, restored as numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.store.nested import named_leaves
from whydiff.studies.artifacts.foreign.out import RATIO, Out

NEEDS = ("orbax.checkpoint",)


def read(path: Path, out: Out) -> None:
    """Hand over every leaf of the tree."""
    from orbax import checkpoint

    handler = checkpoint.PyTreeCheckpointHandler()
    found = handler.metadata(path)
    tree = getattr(found, "tree", found)
    leaves = dict(named_leaves(tree, _entries))
    total = sum(_size(leaf) for leaf in leaves.values())
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if total > RATIO * stored + (1 << 20):
        raise ValueError(f"it declares {total} bytes of arrays in {stored} bytes")
    arguments = _as_numpy(tree, checkpoint.RestoreArgs(restore_type=np.ndarray))
    restored = handler.restore(path, args=checkpoint.args.PyTreeRestore(restore_args=arguments))
    for name, value in named_leaves(restored, _entries):
        if isinstance(value, np.ndarray):
            out.array(name, value)
        else:
            out.value(name, value if isinstance(value, str | int | float | bool | None) else repr(value))


def _entries(value: Any) -> Iterable[tuple[Any, Any]] | None:
    if isinstance(value, dict) and value:
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple) and value else None


def _as_numpy(tree: Any, how: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _as_numpy(value, how) for key, value in tree.items()}
    return [_as_numpy(value, how) for value in tree] if isinstance(tree, list | tuple) else how


def _size(leaf: Any) -> int:
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None:
        return 8
    return int(np.dtype(dtype).itemsize) * math.prod(map(int, shape))
