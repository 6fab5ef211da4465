"""ONNX: initialisers and constants, in the file or in a file beside it; the graph itself as a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from whydiff.studies.artifacts.foreign.out import Out

_BITS = {"bfloat16": 16, "float8_e4m3fn": 8, "float8_e5m2": 8, "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 8}

NEEDS = ("onnx",)


def read(path: Path, out: Out) -> None:
    """Hand over every initialiser of the graph."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    for entry in model.opset_import:
        out.value(f"opset {entry.domain or 'ai.onnx'}", entry.version)
    for number, tensor in enumerate(model.graph.initializer):
        _tensor(tensor.name or f"initializer[{number}]", tensor, path, out)
    for number, sparse in enumerate(model.graph.sparse_initializer):
        out.skip(sparse.values.name or f"sparse_initializer[{number}]", "a sparse initialiser")
    for number, node in enumerate(model.graph.node):
        for held in node.attribute:
            if node.op_type == "Constant" and held.HasField("t"):
                _tensor(node.output[0] if node.output else f"node[{number}]", held.t, path, out)
                held.ClearField("t")
    for prop in model.metadata_props:
        out.value(f"metadata {prop.key}", prop.value)
    for what, held in (
        ("nodes", model.graph.node),
        ("inputs", model.graph.input),
        ("outputs", model.graph.output),
        ("functions", model.functions),
    ):
        out.value(what, len(held))
        out.value(f"{what} (digest)", _digest(held))


def _digest(held: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for one in held:
        part = one.SerializeToString(deterministic=True)
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def _tensor(name: str, tensor: Any, path: Path, out: Out) -> None:
    from onnx import TensorProto, helper, numpy_helper

    shape = list(tensor.dims)
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
    except KeyError as error:
        raise ValueError(f"{name[:60]!r} has the data type {tensor.data_type}") from error
    if tensor.data_location == TensorProto.EXTERNAL:
        where = {entry.key: entry.value for entry in tensor.external_data}
        beside = (path.parent / where["location"]).resolve()
        if path.parent.resolve() not in beside.parents or not beside.is_file():
            raise ValueError(f"{name[:60]!r} is in {where['location'][:80]!r}, which is no file beside it")
        out.place(name, dtype, shape, beside, int(where.get("offset", 0)))
    elif tensor.data_type == TensorProto.STRING:
        out.value(f"{name} (texts)", repr(list(tensor.string_data)))
    else:
        out.array(name, numpy_helper.to_array(tensor))
