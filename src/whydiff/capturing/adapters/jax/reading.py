"""How JAX's values are read when a run gives them back; see `whydiff.capturing.adapters._outputs`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from whydiff.capturing.adapters._outputs import Reader, Step, key_step
from whydiff.capturing.adapters.jax import values
from whydiff.capturing.adapters.jax.state import is_variable, raw
from whydiff.records import Payload


class JaxReader(Reader):
    """Arrays (PRNG keys by their data), mutable cells by what they hold, registered pytrees by their children."""

    def tensor(self, value: Any) -> Payload | str | None:
        """An array's elements."""
        if not isinstance(value, jax.Array):
            return None
        if isinstance(value, jax.core.Tracer):
            return "a tracer (no values)"
        why = values.not_comparable(value)
        if why:
            return why
        if not value.is_fully_addressable:
            return "an array that lies partly on other hosts"
        return values.to_payload(value)

    def parts(self, value: Any) -> Iterable[tuple[Step, Any]] | None:
        """What a cell holds; the children of a registered node that is no container of Python."""
        if is_variable(value):
            return [(".value", raw(value))]
        if isinstance(value, (dict, list, tuple, np.ndarray, np.generic)):
            return None
        children, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda item: item is not value)
        if len(children) == 1 and children[0][1] is value:
            return None
        return [(_step(path, number), item) for number, (path, item) in enumerate(children)]


def _step(path: Any, number: int) -> Step:
    key = path[0] if path else None
    if isinstance(key, jax.tree_util.GetAttrKey):
        return f".{key.name}"
    if isinstance(key, jax.tree_util.SequenceKey):
        return f"[{key.idx}]"
    if isinstance(key, jax.tree_util.DictKey):
        return key_step(key.key, number)
    return f"[{number}]"


READER = JaxReader()
