"""``python -m tests.scores.foreign_files FORMAT FOLDER``: files, each written by the library that owns its format.

A process of its own writes them for `tests.scores.foreign`, because tensorstore lets none fork that has used it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
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


def npz(path: Path, delta: float = 0.0, packed: bool = False) -> None:
    (np.savez_compressed if packed else np.savez)(path, w=numbers(delta), turned=numbers().T, ids=np.arange(12))


def safetensors(path: Path, delta: float = 0.0) -> None:
    from safetensors.numpy import save_file

    save_file({"w": numbers(delta), "half": numbers().astype(np.float16), "ids": np.arange(12)}, path, {"made": "here"})


def pt(path: Path, delta: float = 0.0, zipped: bool = True) -> None:
    import torch

    w = torch.from_numpy(numbers(delta))
    tree = {"w": w, "turned": w.T, "opt": [{"m": w.bfloat16()}, 3, "x", None], "ids": torch.arange(12)}
    torch.save(tree, path, _use_new_zipfile_serialization=zipped)


def parquet(path: Path, delta: float = 0.0, **how: Any) -> None:
    import pyarrow
    from pyarrow import parquet as library

    matrix = numbers(delta)
    columns = {
        "id": list(range(64)),
        "x": matrix[:, 0],
        "word": [f"word {n % 5}" for n in range(64)],
        "hole": [None if n % 7 == 3 else n for n in range(64)],
        "vector": list(matrix),
        "ragged": [[float(n)] * (n % 3) for n in range(64)],
        "day": pyarrow.array(range(64), pyarrow.date32()),
    }
    library.write_table(pyarrow.table(columns), path, row_group_size=32, **how)


def csv(path: Path, delta: float = 0.0) -> None:
    import pyarrow
    from pyarrow import csv as library

    rows = {"id": range(64), "x": numbers(delta)[:, 0], "word": [f'w, "{n}"' if n % 5 else None for n in range(64)]}
    library.write_csv(pyarrow.table({name: list(column) for name, column in rows.items()}), path)


def jsonl(path: Path, delta: float = 0.0) -> None:
    rows = ({"id": f"r{n}", "text": f"é {n}", "scores": row.tolist()} for n, row in enumerate(numbers(delta)[:, :8]))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS = {
    "a.gguf": gguf,
    "b.onnx": onnx,
    "external.onnx": onnx,
    "c.h5": hdf5,
    "d.msgpack": msgpack,
    "e.faiss": faiss,
    "orbax": orbax,
}
FORMATS: dict[str, tuple[Callable[[Path], None], ...]] = {
    "gguf": (gguf,),
    "onnx": (onnx,),
    "h5": (hdf5,),
    "msgpack": (msgpack,),
    "faiss": tuple(partial(faiss, kind=kind) for kind in FAISS),
    "orbax": (orbax,),
    "npz": (npz, partial(npz, packed=True)),
    "safetensors": (safetensors,),
    "pt": (pt, partial(pt, zipped=False)),
    "parquet": (
        parquet,
        partial(parquet, compression="none", use_dictionary=False, data_page_version="2.0"),
        partial(parquet, compression="zstd", store_schema=False),
    ),
    "csv": (csv,),
    "jsonl": (jsonl,),
}
"""Suffix → what writes good files of that format."""


def main() -> int:
    """Write every good file of one format, each in a folder of its own."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    for number, write in enumerate(FORMATS[name]):
        (folder / str(number)).mkdir()
        write(folder / str(number) / f"good.{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
