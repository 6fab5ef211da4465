"""PyTorch's own files (``.pt``, ``.pth``, ``.bin``, ``.ckpt``): weights only, mapped, never executed."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whydiff.capturing.adapters.torch.dtypes import _UNSIGNED, dtype_name, not_comparable
from whydiff.capturing.store.nested import named_leaves
from whydiff.errors import TraceFormatError, WhydiffError
from whydiff.records import Payload

MAX_UNMAPPED = 1 << 29
"""Bytes of the largest file in the format before torch 1.6, which cannot be mapped but is read at once."""
MAX_NAMED = 1 << 20
"""Containers and leaves of one file that are looked into."""
KEPT = 1 << 20
"""Bytes of a file whose mapped pages may stay in memory: to ask where they lie takes longer than to read so few."""
_BYTE_ARRAYS = (b"builtins\nbytearray\n", b"__builtin__\nbytearray\n")

Tensors = dict[str, tuple[Payload, bool]]


def checkpoint(path: Path) -> tuple[Tensors, dict[str, Any], dict[str, str]]:
    """What a file holds, flattened into names such as ``model.layers.0.weight``.

    Args:
        path: a file that ``torch.save`` wrote.

    Returns:
        name → (tensor's bits, whether they lie unchanged in mapped pages of a file of more than `KEPT` bytes); name →
        scalar; name → why something was skipped.

    Raises:
        TraceFormatError: damaged, or it asks for more than tensors and plain containers (arbitrary pickles).
    """
    is_zip = zipfile.is_zipfile(path)
    size = path.stat().st_size
    if not is_zip and size > MAX_UNMAPPED:
        raise _refused(path, f"{size} bytes in the format before torch 1.6", f"at most {MAX_UNMAPPED} bytes")
    try:
        old = None if is_zip else path.read_bytes()
        pickled = _check_packing(path, old)
        source: Any = path if old is None else io.BytesIO(old)  # a file would make room for what is declared
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, which are refused or read all the same
            loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip)
        tensors: Tensors = {}
        values: dict[str, Any] = {}
        skipped: dict[str, str] = {}
        mapped = _mapped_ranges(path) if size > KEPT else []
        # Each container or leaf takes a byte unless it is named again and again.
        for name, item in named_leaves(loaded, _entries, min(MAX_NAMED, 4096 + 8 * pickled)):
            if isinstance(item, torch.Tensor):
                reason = not_comparable(item) or _repeats(item)
                if reason:
                    skipped[name] = reason
                else:
                    tensors[name] = _payload(item, mapped)
            else:
                values[name] = _scalar(item)
    except WhydiffError:
        raise
    except Exception as error:  # whatever damaged or hostile bytes drive torch's loader to
        raise _refused(path, f"{type(error).__name__}: {_said(error)}") from error
    return tensors, values, skipped


def _check_packing(path: Path, old: bytes | None) -> int:
    """Refuse what a few bytes can blow up: packed members, overlapping members, byte arrays of any length.

    ``torch.save`` stores members as they are. ``bytearray(n)`` is a call that weights-only loading allows.
    Returns how many bytes the pickles have.
    """
    pickles = [old] if old is not None else []
    if old is None:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("its members are packed, which torch.save never does")
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise ValueError("its members overlap, or are longer than the file")
            pickles = [archive.read(m) for m in members if m.filename.endswith(".pkl")]
    if any(name in data for data in pickles for name in _BYTE_ARRAYS):
        raise ValueError("it calls bytearray, which can ask for any amount of memory")
    return sum(map(len, pickles))


def _refused(path: Path, actual: str, expected: str = "") -> TraceFormatError:
    return TraceFormatError(
        "A PyTorch file is damaged, or holds more than tensors, and is not opened.",
        where=str(path),
        actual=actual,
        expected=expected or "tensors, numbers, text, lists and dictionaries (torch.load with weights_only=True)",
        next_step="If you trust it, load it yourself and save the tensors as .safetensors.",
    )


def _said(error: BaseException) -> str:
    """What was wrong; torch's advice to load the file without protection is not passed on."""
    text = " ".join(str(error).split())
    _, found, rest = text.partition("WeightsUnpickler error:")
    return (rest if found else text).partition("Please use `torch.serialization")[0].strip()[:200]


def _entries(item: Any) -> Iterable[tuple[str | int, Any]] | None:
    if isinstance(item, Mapping):
        return ((str(key), value) for key, value in item.items())
    if isinstance(item, (set, frozenset)):  # whose order is another one in every process
        item = sorted(item, key=lambda one: (type(one).__name__, str(one)))
    return enumerate(item) if isinstance(item, (list, tuple)) else None


def _scalar(item: Any) -> Any:
    plain = item is None or isinstance(item, (bool, int, float, complex, str, bytes))
    return item if plain else f"{type(item).__name__} {item}"


def _repeats(tensor: torch.Tensor) -> str:
    """Why a tensor is not worth its size: expanded ones name more numbers than their memory holds."""
    memory = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > max(memory, 1) and math.prod(tensor.shape) > 1:
        return f"it declares {list(tensor.shape)} over {memory} bytes of memory (an expanded view)"
    return ""


def _payload(tensor: torch.Tensor, mapped: Sequence[tuple[int, int]]) -> tuple[Payload, bool]:
    name = dtype_name(tensor.dtype)
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if name in ("bfloat16", "complex32") or name.startswith("float8"):
        width = dense.element_size()
        bits: Any = dense.reshape(-1).view(_UNSIGNED[width]).numpy().view(f"u{width}").reshape(tuple(dense.shape))
    else:
        bits = dense.numpy()
    begin = dense.data_ptr()
    end = begin + dense.numel() * dense.element_size()
    inside = any(low <= begin and end <= high for low, high in mapped)
    return Payload(np.asarray(bits), name), inside


def _mapped_ranges(path: Path) -> list[tuple[int, int]]:
    """Address ranges in which this process has the file mapped (empty where the system does not tell)."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    wanted = str(path.resolve())
    ranges = []
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == wanted:
            low, high = fields[0].split("-")
            ranges.append((int(low, 16), int(high, 16)))
    return ranges
