"""GGUF: names, types and places of the tensors, and the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whydiff.studies.artifacts.foreign.out import Out

_PLAIN = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    **{f"I{n}": f"int{n}" for n in (8, 16, 32, 64)},
}

NEEDS = ("gguf",)


def read(path: Path, out: Out) -> None:
    """Hand over every tensor's place and every field."""
    from gguf import GGUFReader, GGUFValueType

    reader = GGUFReader(path)
    for name, field in reader.fields.items():
        if not field.types:
            continue
        value: Any = field.contents()
        if field.types[0] != GGUFValueType.ARRAY:
            out.value(name, value)
        elif field.types[-1] == GGUFValueType.STRING:
            out.value(f"{name} (texts)", json.dumps(value))
        else:
            out.array(name, value)
    for tensor in reader.tensors:
        kind = tensor.tensor_type.name
        shape = [int(size) for size in reversed(tensor.shape.tolist())]
        dtype = _PLAIN.get(kind, "float32")
        packed = "" if kind in _PLAIN else kind
        if packed and not _unpacks(packed):
            out.skip(tensor.name, f"blocks of type {packed} are not unpacked by gguf")
            continue
        out.place(tensor.name, dtype, shape, path, int(tensor.data_offset), packed)


def _unpacks(packed: str) -> bool:
    """Whether the library unpacks blocks of a type (some serve as operands only)."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    kind = GGMLQuantizationType[packed]
    try:
        quants.dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
