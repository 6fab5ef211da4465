"""HDF5: datasets and attributes. Links to other files, virtual data and filters that are loaded as code are not followed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whydiff.studies.artifacts.foreign.out import RATIO, Out

_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})
"""Those that HDF5 and h5py are built with: deflate, shuffle, fletcher32, szip, nbit, scale-offset, lzf."""
_PIECE = 1 << 22

NEEDS = ("h5py",)


def read(path: Path, out: Out) -> None:
    """Hand over every dataset and attribute."""
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        _attributes("", file, out)
        stack = [("", file)]
        seen = {h5py.h5o.get_info(file.id).addr}
        while stack:
            prefix, group = stack.pop()
            for name in group:
                full = f"{prefix}/{name}" if prefix else name
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    away = isinstance(link, h5py.ExternalLink)
                    out.skip(full, "a soft or external link is not followed", elsewhere=away)
                    continue
                item = group[name]
                if isinstance(item, h5py.Dataset):
                    _attributes(full, item, out)
                    _dataset(full, item, path, out)
                elif isinstance(item, h5py.Group):
                    address = h5py.h5o.get_info(item.id).addr
                    if address in seen:
                        out.skip(full, "a group that was read under another name")
                        continue
                    seen.add(address)
                    _attributes(full, item, out)
                    stack.append((full, item))
                else:
                    out.skip(full, "a named type")


def _attributes(name: str, item: Any, out: Out) -> None:
    for key in item.attrs:
        full = f"{name}@{key}"
        try:
            value = item.attrs[key]
        except (OSError, TypeError, ValueError) as error:
            out.skip(full, f"an attribute that h5py does not read: {error}"[:200])
            continue
        if getattr(value, "ndim", 0) and value.dtype.kind in "biufc":
            out.array(full, value)
        elif getattr(value, "ndim", 0):
            out.value(f"{full} (list)", repr(value.tolist()))
        else:
            out.value(full, value)


def _dataset(name: str, item: Any, path: Path, out: Out) -> None:
    made = item.id.get_create_plist()
    filters = [made.get_filter(n)[0] for n in range(made.get_nfilters())]
    if item.is_virtual or item.external:
        out.skip(name, "its numbers are in another file, which is not followed", elsewhere=True)
    elif not _FILTERS.issuperset(filters):
        out.skip(name, "it is packed by a filter that would be loaded as code")
    elif item.shape is None:
        out.value(name, None)
    elif item.dtype.kind not in "biufc":
        _texts(name, item, out)
    elif (place := item.id.get_offset()) is not None and item.dtype.byteorder != ">":
        out.place(name, item.dtype.name, item.shape, path, place)
    elif item.nbytes > RATIO * item.id.get_storage_size() + (1 << 20):
        out.skip(name, f"it declares {item.nbytes} bytes, of which {item.id.get_storage_size()} are stored")
    else:
        dtype = item.dtype.newbyteorder("<")
        out.pieces(name, dtype.name, item.shape, (piece.astype(dtype, copy=False) for piece in _pieces(item)))


def _pieces(item: Any) -> Iterator[Any]:
    """Blocks of an array in C order, of at most `_PIECE` numbers."""
    axis, inner = item.ndim, 1
    while axis and inner * item.shape[axis - 1] <= _PIECE:
        axis -= 1
        inner *= item.shape[axis]
    if not axis:
        yield item[()]
        return
    step = max(1, _PIECE // max(inner, 1))
    for before in itertools.product(*(range(size) for size in item.shape[: axis - 1])):
        for at in range(0, item.shape[axis - 1], step):
            yield item[(*before, slice(at, at + step))]


def _texts(name: str, item: Any, out: Out) -> None:
    """Texts of one length, or of any (which HDF5 keeps apart)."""
    if item.dtype.kind in "SO" and item.size <= 1 << 16 and "ref" not in (item.dtype.metadata or {}):
        out.value(f"{name} (texts)", repr(item[()].tolist() if item.shape else item[()]))
    else:
        out.skip(name, f"dtype {item.dtype} is not compared")
