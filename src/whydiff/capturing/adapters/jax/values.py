"""Values of JAX as bytes: dtype names, host payloads, fingerprints. PRNG keys are shown by their key data."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

from whydiff.capturing.adapters.jax.internals import key_kind
from whydiff.errors import PayloadError
from whydiff.numbers.fingerprint import fingerprint_addresses, fingerprint_bytes
from whydiff.records import Fingerprint, Payload, TensorSpec

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_NATIVE = frozenset(
    {
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    }
)


def is_key(value: Any) -> bool:
    """Whether a value (or abstract value) is a typed PRNG key."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and _is_key(dtype)


def not_comparable(aval: Any) -> str:
    """Why an abstract value has no numbers to look at; empty if it has."""
    if not hasattr(aval, "shape") or not hasattr(aval, "dtype"):
        return f"{type(aval).__name__} (no numbers)"
    return _not_comparable(aval.dtype)


@functools.cache
def dtype_name(dtype: Any) -> str:
    """The framework-neutral name of a dtype."""
    return str(dtype)


@functools.cache
def _not_comparable(dtype: Any) -> str:
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return ""
    if dtype == jax.dtypes.float0:
        return "float0 (no numbers)"
    sub_byte = dtype_name(dtype) in ("int4", "uint4", "int2", "uint2", "float4_e2m1fn")
    if sub_byte or (np.dtype(dtype).itemsize not in _UNSIGNED and dtype_name(dtype) not in _NATIVE):
        return f"dtype {dtype}"
    return ""


@functools.cache
def _is_key(dtype: Any) -> bool:
    return bool(jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key))


def host(value: Any) -> np.ndarray[Any, Any]:
    """A value on the host in row-major order; on the CPU the array's own memory. Keys: their key data."""
    if is_key(value):
        value = jax.random.key_data(value)
    if not isinstance(value, np.ndarray):
        value = np.asarray(value)
    return value if value.flags.c_contiguous else np.ascontiguousarray(value).reshape(value.shape)


def bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same memory with a dtype that every numpy knows: 16-bit and 8-bit floats as unsigned integers."""
    if dtype_name(array.dtype) in _NATIVE:
        return array
    return array.view(_UNSIGNED[array.dtype.itemsize])


def memory(array: np.ndarray[Any, Any]) -> tuple[Hashable, ...]:
    """Which elements of the host's memory an array looks at."""
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype


def fingerprint(array: np.ndarray[Any, Any]) -> Fingerprint:
    """ML2 of a host array's bytes."""
    return fingerprint_bytes(bits(array))


def fingerprints(arrays: Sequence[np.ndarray[Any, Any]]) -> list[Fingerprint]:
    """`fingerprint` of many host arrays, read by several threads."""
    lanes = fingerprint_addresses([(a.__array_interface__["data"][0], a.nbytes) for a in map(bits, arrays)])
    return [Fingerprint(pair, array.nbytes) for pair, array in zip(lanes, arrays, strict=True)]


def spec_of(value: Any) -> TensorSpec:
    """Shape and dtype of a value or abstract value, with its device if it is on one; keys as their data."""
    if is_key(value):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(value.shape, value.dtype))
        return spec(tuple(data.shape), dtype_name(data.dtype), _device(value))
    return spec(tuple(value.shape), dtype_name(value.dtype), _device(value))


@functools.lru_cache(maxsize=1 << 14)
def spec(shape: tuple[int, ...], dtype: str, device: str) -> TensorSpec:
    """A row-major tensor (JAX shows no other layout)."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return TensorSpec(shape=shape, dtype=dtype, device=device, strides=tuple(reversed(strides)))


def _device(value: Any) -> str:
    if not isinstance(value, jax.Array):
        return "cpu"
    devices = sorted(value.devices(), key=lambda device: device.id)
    names = [d.platform if d.platform == "cpu" and d.id == 0 else f"{d.platform}:{d.id}" for d in devices]
    return ",".join(names)


def to_payload(value: Any) -> Payload:
    """Copy a value to the host, bit for bit."""
    array = host(value)
    return Payload(np.array(bits(array), order="C", copy=True), str(array.dtype))


def from_payload(payload: Payload) -> np.ndarray[Any, Any]:
    """A host array with a payload's bits and true dtype (JAX takes it as it is).

    Raises:
        PayloadError: JAX has no such dtype.
    """
    if payload.dtype in _NATIVE:
        return np.asarray(payload.bits)
    dtype = getattr(ml_dtypes, payload.dtype, None)
    if dtype is None:
        raise PayloadError("JAX has no such dtype.", actual=payload.dtype, next_step="compare it where it was made")
    return np.asarray(payload.bits).view(dtype)


def as_like(value: Any, aval: Any) -> Any:
    """A host or device value in the form that an equation expects: its dtype, or a key of its kind."""
    if is_key(aval):
        if is_key(value):
            return value
        return jax.random.wrap_key_data(jax.numpy.asarray(value), impl=key_kind(aval))
    if str(getattr(value, "dtype", "")) != str(aval.dtype):
        return value.astype(aval.dtype)
    return value


def equal(one: Any, other: Any) -> bool:
    """True if no bit differs; across dtypes, if every value is equal."""
    left, right = host(one), host(other)
    if left.shape != right.shape:
        return False
    if left.dtype == right.dtype:
        flat = [np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (left, right)]
        return bool(np.array_equal(flat[0], flat[1]))
    common = np.promote_types(*(np.float32 if str(a.dtype) not in _NATIVE else a.dtype for a in (left, right)))
    return bool(np.array_equal(left.astype(common), right.astype(common), equal_nan=common.kind in "fc"))
