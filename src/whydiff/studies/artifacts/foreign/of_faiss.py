"""faiss: vectors, codes, lists, centroids, graphs and ids of an index, by its class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.studies.artifacts.foreign.out import Out

NEEDS = ("faiss",)


def read(path: Path, out: Out) -> None:
    """Hand over what an index holds."""
    import faiss

    flags = faiss.IO_FLAG_READ_ONLY
    with open(path, "rb") as file:
        binary = file.read(2) == b"IB"
    _index("", faiss.read_index_binary(str(path), flags) if binary else faiss.read_index(str(path), flags), out)


def _index(prefix: str, held: Any, out: Out) -> None:
    import faiss

    index = faiss.downcast_index(held) if not isinstance(held, faiss.IndexBinary) else faiss.downcast_IndexBinary(held)
    out.value(f"{prefix}class", type(index).__name__)
    for name in ("d", "ntotal", "metric_type", "is_trained", "nprobe"):
        if hasattr(index, name):
            out.value(f"{prefix}{name}", getattr(index, name))
    known = [part for kind, part in _parts() if isinstance(index, kind)]
    for part in known:
        part(prefix, index, out)
    if not known:
        out.skip(f"{prefix}(index)", f"what {type(index).__name__} holds is not looked into")


def _parts() -> tuple[tuple[Any, Callable[[str, Any, Out], None]], ...]:
    import faiss

    return (
        (faiss.IndexPreTransform, _transformed),
        (faiss.IndexIDMap, _named),
        (faiss.IndexIVF, _inverted),
        (faiss.IndexHNSW, _graph),
        (faiss.IndexRefine, _refined),
        (faiss.IndexFlatCodes, _codes),
        (faiss.IndexBinaryFlat, _binary),
    )


def _vector(held: Any) -> np.ndarray[Any, Any]:
    import faiss

    found: np.ndarray[Any, Any] = faiss.vector_to_array(held)
    return found


def _codes(prefix: str, index: Any, out: Out) -> None:
    import faiss

    codes = _vector(index.codes)
    if isinstance(index, faiss.IndexFlat):
        out.array(f"{prefix}vectors", codes.view(np.float32).reshape(index.ntotal, index.d))
        return
    out.array(f"{prefix}codes", codes.reshape(index.ntotal, index.code_size))
    if isinstance(index, faiss.IndexPQ):
        _product(prefix, index.pq, out)
    if isinstance(index, faiss.IndexScalarQuantizer):
        out.array(f"{prefix}trained", _vector(index.sq.trained))


def _product(prefix: str, quantizer: Any, out: Out) -> None:
    centroids = _vector(quantizer.centroids)
    out.array(f"{prefix}pq.centroids", centroids.reshape(quantizer.M, quantizer.ksub, quantizer.dsub))


def _inverted(prefix: str, index: Any, out: Out) -> None:
    import faiss

    _index(f"{prefix}quantizer.", index.quantizer, out)
    lists = index.invlists
    sizes = [lists.list_size(n) for n in range(lists.nlist)]
    out.array(f"{prefix}lists.sizes", np.array(sizes, np.int64))
    width = lists.code_size
    held = [n for n, size in enumerate(sizes) if size]
    ids = [np.array(faiss.rev_swig_ptr(lists.get_ids(n), sizes[n])) for n in held]
    codes = [np.array(faiss.rev_swig_ptr(lists.get_codes(n), sizes[n] * width)) for n in held]
    out.array(f"{prefix}lists.ids", np.concatenate(ids) if ids else np.zeros(0, np.int64))
    flat = np.concatenate(codes) if codes else np.zeros(0, np.uint8)
    if isinstance(index, faiss.IndexIVFFlat):
        out.array(f"{prefix}lists.vectors", flat.view(np.float32).reshape(-1, index.d))
    else:
        out.array(f"{prefix}lists.codes", flat.reshape(-1, width))
    if isinstance(index, faiss.IndexIVFPQ):
        _product(prefix, index.pq, out)
    if isinstance(index, faiss.IndexIVFScalarQuantizer):
        out.array(f"{prefix}trained", _vector(index.sq.trained))


def _graph(prefix: str, index: Any, out: Out) -> None:
    for name in ("levels", "offsets", "neighbors", "assign_probas", "cum_nneighbor_per_level"):
        out.array(f"{prefix}hnsw.{name}", _vector(getattr(index.hnsw, name)))
    for name in ("entry_point", "max_level", "efConstruction", "efSearch"):
        out.value(f"{prefix}hnsw.{name}", getattr(index.hnsw, name))
    _index(f"{prefix}storage.", index.storage, out)


def _refined(prefix: str, index: Any, out: Out) -> None:
    _index(f"{prefix}base.", index.base_index, out)
    _index(f"{prefix}refine.", index.refine_index, out)


def _named(prefix: str, index: Any, out: Out) -> None:
    out.array(f"{prefix}ids", _vector(index.id_map))
    _index(f"{prefix}index.", index.index, out)


def _transformed(prefix: str, index: Any, out: Out) -> None:
    import faiss

    for number in range(index.chain.size()):
        step = faiss.downcast_VectorTransform(index.chain.at(number))
        out.value(f"{prefix}chain[{number}].class", type(step).__name__)
        if isinstance(step, faiss.LinearTransform):
            out.array(f"{prefix}chain[{number}].A", _vector(step.A))
            out.array(f"{prefix}chain[{number}].b", _vector(step.b))
    _index(f"{prefix}index.", index.index, out)


def _binary(prefix: str, index: Any, out: Out) -> None:
    out.array(f"{prefix}codes", _vector(index.xb).reshape(index.ntotal, index.code_size))
