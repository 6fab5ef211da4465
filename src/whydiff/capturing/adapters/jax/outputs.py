"""Arrays inside results, with the path by which a user would reach them."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import numpy as np

from whydiff.capturing.adapters._outputs import key_step
from whydiff.capturing.adapters.jax.state import members, raw

T = TypeVar("T")


def arrays_in(value: Any) -> list[tuple[str, Any]]:
    """(path, array) for every array of a pytree, in order; one alone has the path ``"output"``."""
    found: list[tuple[str, Any]] = []
    for path, leaf in _leaves(value):
        name = _name(path)
        if isinstance(leaf, (jax.Array, np.ndarray)):
            found.append((name or "output", leaf))
        elif hasattr(leaf, "get_raw_value"):
            found += [(name or "output", item) for item in jax.tree_util.tree_leaves(raw(leaf))]
        elif not isinstance(leaf, (bool, int, float, complex, str)) and not jax.tree_util.all_leaves([leaf]):
            found += [(f"{name}.{key}", item) for key, item in members(leaf) if isinstance(item, jax.Array)]
    if len(found) == 1:
        return [("output" if not _plain_key(value) else found[0][0], found[0][1])]
    return found


def ready(value: T) -> T:
    """The result itself, as soon as all that is inside is computed."""
    jax.block_until_ready([leaf for _, leaf in _leaves(value)])
    return value


def _leaves(value: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Leaves of a pytree with their paths; in Python's order where JAX cannot sort a mapping's keys (0 and "0")."""
    try:
        return list(jax.tree_util.tree_flatten_with_path(value)[0])
    except ValueError:
        if isinstance(value, dict):
            items = [(jax.tree_util.DictKey(key), item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            items = [(jax.tree_util.SequenceKey(at), item) for at, item in enumerate(value)]
        else:
            raise
        return [((key, *path), leaf) for key, item in items for path, leaf in _leaves(item)]


def _plain_key(value: Any) -> bool:
    """Whether a lone array lies in a mapping or under a position: its path is then part of the result."""
    return isinstance(value, (dict, list, tuple))


def _name(path: Any) -> str:
    parts = []
    for key in path:
        if isinstance(key, jax.tree_util.SequenceKey):
            parts.append(f"[{key.idx}]")
        elif isinstance(key, jax.tree_util.DictKey):
            parts.append(key_step(key.key, 0))
        elif isinstance(key, jax.tree_util.GetAttrKey):
            parts.append(f".{key.name}")
        else:
            parts.append(f"[{getattr(key, 'key', key)}]")
    return "".join(parts).removeprefix(".")
