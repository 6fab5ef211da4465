"""Files of GGUF, ONNX, HDF5, flax's msgpack, faiss and Orbax, written by the libraries that own the formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FAISS = ("Flat", "IVF4,Flat", "IVF4,PQ4x4", "HNSW8", "IDMap,Flat", "PCA8,Flat", "SQ8", "PQ4x4")
Array = np.ndarray[Any, Any]


def numbers(delta: float = 0.0) -> Array:
    """A float32 matrix, one number of which may be another."""
    made = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    made[3, 2] += delta
    return made


def gguf(path: Path, delta: float = 0.0) -> None:
    import gguf as library

    writer = library.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.tokens", ["a", "b"])
    writer.add_array("tokenizer.scores", [0.5, 1.5])
    matrix = numbers(delta)
    writer.add_tensor("plain", matrix)
    writer.add_tensor("half", matrix.astype(np.float16))
    kind = library.GGMLQuantizationType.Q8_0
    writer.add_tensor("packed", library.quants.quantize(matrix, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def onnx(path: Path, delta: float = 0.0) -> None:
    import onnx as library
    from onnx import TensorProto, helper, numpy_helper

    held = [
        numpy_helper.from_array(numbers(delta), "w"),
        numpy_helper.from_array(np.arange(12), "ids"),
        helper.make_tensor("b16", TensorProto.BFLOAT16, [4], np.arange(4, dtype=np.float32)),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 64), ("y", 32))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], held)
    external = {"save_as_external_data": True, "location": f"{path.stem}.data", "size_threshold": 0}
    library.save(helper.make_model(graph), str(path), **(external if "external" in path.name else {}))


def hdf5(path: Path, delta: float = 0.0) -> None:
    import h5py

    matrix = numbers(delta)
    with h5py.File(path, "w") as file:
        file["m/w"] = matrix
        file.create_dataset("m/packed", data=matrix, compression="gzip", chunks=(16, 16))
        file["ids"], file["big"], file["pair"] = np.arange(12), matrix.astype(">f4"), matrix[:2] + 1j * matrix[:2]
        file["name"], file["texts"] = "text", np.array(["a", "b"], dtype=h5py.string_dtype())
        file["m"].attrs["lr"] = 0.1


def msgpack(path: Path, delta: float = 0.0) -> None:
    import ml_dtypes
    from flax import serialization

    tree = {"params": {"w": numbers(delta), "b": np.ones(3, ml_dtypes.bfloat16)}, "step": 3, "ids": np.arange(12)}
    path.write_bytes(serialization.msgpack_serialize(tree))


def faiss(path: Path, delta: float = 0.0, kind: str = "Flat") -> None:
    import faiss as library

    vectors = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    library.omp_set_num_threads(1)
    index = library.index_factory(16, kind)
    index.train(vectors)
    vectors[3] += delta
    index.add_with_ids(vectors, np.arange(300)) if "IDMap" in kind else index.add(vectors)
    library.write_index(index, str(path))


def orbax(path: Path, delta: float = 0.0) -> None:
    import ml_dtypes
    from orbax import checkpoint

    tree = {
        "w": numbers(delta),
        "b": np.ones(3, ml_dtypes.bfloat16),
        "opt": [np.arange(12), {"m": numbers(delta) * 1e-8}],
    }
    checkpoint.PyTreeCheckpointer().save(path.resolve(), tree, force=True)


WRITERS = {
    "a.gguf": gguf,
    "b.onnx": onnx,
    "external.onnx": onnx,
    "c.h5": hdf5,
    "d.msgpack": msgpack,
    "e.faiss": faiss,
    "orbax": orbax,
}
