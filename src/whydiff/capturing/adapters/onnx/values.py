"""Host arrays as payloads and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from whydiff.capturing.adapters._outputs import Reader
from whydiff.numbers.metrics import values
from whydiff.records import Payload, TensorSpec

Array = np.ndarray[Any, Any]
_OWN = {"bfloat16": np.uint16}


def to_payload(value: Array) -> Payload:
    """An array's bits."""
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    name = str(array.dtype)
    return Payload(array.view(_OWN[name]) if name in _OWN else array, name)


def from_payload(payload: Payload) -> Array:
    """An array that numpy computes with: narrow kinds of floats become float32."""
    return np.asarray(values(payload.bits, payload.dtype))


def spec_of(value: Array) -> TensorSpec:
    """Shape and dtype."""
    return TensorSpec(shape=tuple(value.shape), dtype=str(value.dtype))


def floating(value: Array) -> bool:
    """Whether an array holds floating-point numbers."""
    return value.dtype.kind == "f" or str(value.dtype) == "bfloat16"


class ArrayReader(Reader):
    """Numpy's arrays are read without a framework."""

    def tensor(self, value: Any) -> Payload | str | None:
        """None: it is left to numpy."""
        return None


READER = ArrayReader()
