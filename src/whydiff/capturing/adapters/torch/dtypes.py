"""Names of dtypes, host payloads, and which tensors cannot be compared."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from whydiff.capturing.adapters.torch.device.fetching import fetched
from whydiff.capturing.store.dtypes import NATIVE
from whydiff.errors import PayloadError
from whydiff.records import Payload, TensorSpec

_is_wrapper: Any = torch._C._functorch.is_functorch_wrapped_tensor
_NAMES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "complex128",
        "complex64",
        "complex32",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint64",
        "uint32",
        "uint16",
        "uint8",
        "bool",
    )
    if hasattr(torch, name)
}
_BY_DTYPE = {dtype: name for name, dtype in _NAMES.items()}
_UNSIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def dtype_name(dtype: torch.dtype) -> str:
    """The framework-neutral name (``torch.bfloat16`` → ``"bfloat16"``)."""
    return _BY_DTYPE.get(dtype) or str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of a framework-neutral name.

    Raises:
        PayloadError: this torch has no such dtype.
    """
    if name not in _NAMES:
        raise PayloadError(
            "This torch has no such dtype.",
            actual=name,
            expected=", ".join(_NAMES),
            next_step="open the trace with a newer torch",
        )
    return _NAMES[name]


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory without a lazy conjugation or negation."""
    if tensor.is_conj():
        tensor = tensor.conj()
    return torch._neg_view(tensor) if tensor.is_neg() else tensor


def plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is certainly comparable: quick, and true of nearly all; `not_comparable` is the rule."""
    return (
        type(tensor) in _PLAIN
        and tensor.layout is torch.strided
        and tensor.dtype in _BY_DTYPE
        and not tensor.is_nested
        and not tensor.is_meta
        and not _is_wrapper(tensor)
        and not tensor._is_zerotensor()
    )


def without_numbers(tensor: torch.Tensor) -> bool:
    """Whether a tensor is only a shape: on the meta device, or fake."""
    return not tensor.is_nested and (tensor.is_meta or isinstance(tensor, FakeTensor))


def not_comparable(tensor: torch.Tensor) -> str:
    """Why a tensor has no plain storage to fingerprint; empty if it has one."""
    if plain(tensor):
        return ""
    if _is_wrapper(tensor):
        return "wrapper of a functional transform"
    if isinstance(tensor, UninitializedTensorMixin):
        return "not yet initialised"
    if tensor._is_zerotensor():
        return "zeros without memory"
    if tensor.is_nested:
        return "nested tensor"
    if type(tensor) not in _PLAIN and type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"tensor subclass {type(tensor).__name__}"
    if tensor.layout is not torch.strided:
        return f"{str(tensor.layout).removeprefix('torch.')} layout"
    if tensor.is_quantized:
        return "quantised tensor"
    if tensor.device.type == "meta":
        return "meta tensor (no data)"
    if tensor.dtype not in _BY_DTYPE:
        return f"dtype {tensor.dtype}"
    return ""


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Shape, dtype, device and layout within its storage (strides and offset in elements)."""
    if isinstance(tensor, UninitializedTensorMixin):
        return TensorSpec((), dtype_name(tensor.dtype), str(tensor.device))
    if tensor.is_nested:
        return TensorSpec((), dtype_name(tensor.dtype), str(tensor.device))
    if _is_wrapper(tensor) or not all(type(size) is int for size in tensor.shape):  # sizes may be symbols
        sizes = tuple(size if type(size) is int else 0 for size in tensor.shape)
        return TensorSpec(sizes, dtype_name(tensor.dtype), str(tensor.device))
    if tensor.layout is not torch.strided:
        return TensorSpec(tuple(tensor.shape), dtype_name(tensor.dtype), str(tensor.device))
    return TensorSpec(
        shape=tuple(tensor.shape),
        dtype=dtype_name(tensor.dtype),
        device=str(tensor.device),
        strides=tensor.stride(),
        offset=int(tensor.storage_offset()),
    )


def integer_view(tensor: torch.Tensor) -> torch.Tensor:
    """The same bits as integers of the same width (complex: pairs of them)."""
    if tensor.is_complex():
        tensor = torch.view_as_real(raw(tensor))
    if tensor.dtype is torch.bool:
        return tensor.view(torch.uint8)
    return tensor.view(_UNSIGNED[tensor.element_size()])


def to_payload(tensor: torch.Tensor) -> Payload:
    """Copy a tensor of any comparable dtype to the host, bit for bit, in row-major order."""
    name = dtype_name(tensor.dtype)
    # A copy of its own: what shares memory with numpy could never be resized again, and this is the program's.
    host = fetched(raw(tensor.detach()))
    if name in ("bfloat16", "complex32") or name.startswith("float8"):
        width = host.element_size()
        bits = host.reshape(-1).view(_UNSIGNED[width]).numpy().view(f"u{width}").reshape(tuple(host.shape))
    else:
        bits = host.numpy()
    return Payload(bits, name)


def address(tensor: torch.Tensor) -> int:
    """Of a tensor's first element; who asks the tensor itself is taken for somebody who may write there (`lending`)."""
    return int(tensor.untyped_storage().data_ptr() + tensor.storage_offset() * tensor.element_size())


def seen_by_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A host tensor's memory as whole numbers of its width; ``.numpy()`` would forbid it to be resized for ever."""
    width = tensor.element_size()
    whole = "V16" if width == 16 else f"u{width}"
    if not tensor.numel():
        return np.empty(tuple(tensor.shape), whole)
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    memory = (ctypes.c_char * (extent * width)).from_address(address(tensor))
    strides = [stride * width for stride in tensor.stride()]
    return np.lib.stride_tricks.as_strided(
        np.frombuffer(memoryview(memory), whole), tuple(tensor.shape), strides, writeable=False
    )


def borrowed_payload(tensor: torch.Tensor) -> Payload:
    """`to_payload` without a copy where that is possible, for who copies or writes the bits at once."""
    name = dtype_name(tensor.dtype)
    if tensor.device.type != "cpu" or tensor.is_conj() or tensor.is_neg() or name not in NATIVE:
        return to_payload(tensor)
    return Payload(seen_by_numpy(tensor).view(NATIVE[name]), name) if tensor.is_contiguous() else to_payload(tensor)


def from_payload(payload: Payload, device: str | torch.device = "cpu") -> torch.Tensor:
    """A new row-major tensor with the payload's bits."""
    dtype = dtype_of(payload.dtype)
    bits: Any = payload.bits
    if bits.dtype.kind == "u" and not payload.dtype.startswith("uint"):
        bits = bits.view(f"i{bits.dtype.itemsize}") if bits.dtype.itemsize > 1 else bits
        tensor = torch.from_numpy(np.array(bits, order="C", copy=True)).reshape(-1).view(dtype).reshape(bits.shape)
    else:
        tensor = torch.from_numpy(np.array(bits, order="C", copy=True))
    return tensor if device == "cpu" else tensor.to(device)


class default_dtype:
    """``with default_dtype(…)``: what integers and plain numbers become when they meet floating ops."""

    __slots__ = ("before", "dtype")

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.before = torch.get_default_dtype()
        if self.before is not self.dtype:
            torch.set_default_dtype(self.dtype)

    def __exit__(self, *raised: object) -> None:
        if self.before is not self.dtype:
            torch.set_default_dtype(self.before)
