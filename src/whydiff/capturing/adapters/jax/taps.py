"""What the taps of an instrumented program brought to the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from whydiff.capturing.adapters.jax import values
from whydiff.records import Fingerprint


def on_host(taps: Any) -> Any:
    """The same tree with its arrays on the host."""
    return jax.tree_util.tree_map(values.host, taps)


def fingerprints(taps: Sequence[Any]) -> dict[int, Fingerprint]:
    """Id → fingerprint of what a program's own equations gave, those of the programs that it calls included."""
    found = list(arrays(taps))
    marks = values.fingerprints([values.host(array) for array in found])
    return {id(array): mark for array, mark in zip(found, marks, strict=True)}


def arrays(taps: Sequence[Any]) -> Iterator[Any]:
    """Every array of nested taps, in order."""
    for tap in taps:
        if isinstance(tap, list):
            yield from arrays(tap)
        elif isinstance(tap, (jax.Array, np.ndarray)) and not values.not_comparable(tap):
            yield tap


def item(taps: Any, index: int) -> Any:
    """What one turn of a loop tapped."""
    return jax.tree_util.tree_map(lambda array: array[index], taps)
