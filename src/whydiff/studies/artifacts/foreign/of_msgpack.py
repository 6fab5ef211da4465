"""flax's msgpack: a state dict whose arrays are extension types.

Format: ``flax.serialization``: extension 1 is (shape, dtype name, bytes) of an array, 2 a complex number, 3 a numpy
scalar; a large array is a dict of chunks under ``__msgpack_chunked_array__``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.store.nested import named_leaves
from whydiff.studies.artifacts.foreign.out import Out

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"

NEEDS = ("ml_dtypes", "msgpack")  # ml_dtypes names bfloat16 and float8 to numpy


def read(path: Path, out: Out) -> None:
    """Hand over every leaf of the tree."""
    import msgpack

    data = path.read_bytes()
    tree = msgpack.unpackb(data, ext_hook=_extension, raw=False, strict_map_key=False)
    for name, value in named_leaves(tree, _entries, len(data)):
        if isinstance(value, np.ndarray):
            out.array(name, value)
        elif isinstance(value, dict) and value:
            out.array(name, _joined(value))
        elif isinstance(value, dict | list | tuple | bytes):
            out.value(f"{name} ({type(value).__name__})", repr(value))
        else:
            out.value(name, value)


def _entries(value: Any) -> Iterable[tuple[Any, Any]] | None:
    if isinstance(value, dict) and value and _CHUNKED not in value:
        return value.items()
    return enumerate(value) if isinstance(value, list) and value else None


def _extension(code: int, data: bytes) -> Any:
    import msgpack

    if code in (_ARRAY, _SCALAR):
        shape, name, content = msgpack.unpackb(data, raw=True)
        array = _array(tuple(shape), name, content)
        return array if code == _ARRAY else array[()]
    if code == _COMPLEX:
        return complex(*msgpack.unpackb(data))
    raise ValueError(f"an extension of type {code}")


def _array(shape: tuple[int, ...], name: bytes, content: bytes) -> np.ndarray[Any, Any]:
    dtype = np.dtype("V2" if name == b"V2" else name.decode())
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"an array of shape {shape} and dtype {dtype} in {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape)


def _joined(value: dict[str, Any]) -> np.ndarray[Any, Any]:
    chunks, shape = value["chunks"], value["shape"]
    pieces = [chunks[str(n)] for n in range(len(chunks))]
    flat: np.ndarray[Any, Any] = np.concatenate([np.asarray(piece).reshape(-1) for piece in pieces])
    return flat.reshape([shape[str(n)] for n in range(len(shape))])
