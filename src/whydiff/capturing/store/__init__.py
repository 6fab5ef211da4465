"""Traces on disk, as described in ``docs/reference/trace-format.md``.

`TraceWriter` writes while a run goes on, `save` writes a trace held in memory, `open_trace` opens one, and
`read_tensor_file` reads plain tensor files. Opening runs no code and unpickles nothing.

What is named here is imported when it is asked for: a process that reads one file of another tool needs its names alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whydiff.capturing.store.ranked import RankedTrace, ending, open_side
    from whydiff.capturing.store.reader import DiskTrace, open_ranks, open_trace
    from whydiff.capturing.store.saving import save
    from whydiff.capturing.store.tensor_files import TensorFile, read_tensor_file
    from whydiff.capturing.store.writer import TraceWriter

__all__ = [
    "DiskTrace",
    "RankedTrace",
    "TensorFile",
    "TraceWriter",
    "ending",
    "open_ranks",
    "open_side",
    "open_trace",
    "read_tensor_file",
    "save",
]

_HOMES = {
    "DiskTrace": "reader",
    "RankedTrace": "ranked",
    "TensorFile": "tensor_files",
    "TraceWriter": "writer",
    "ending": "ranked",
    "open_ranks": "reader",
    "open_side": "ranked",
    "open_trace": "reader",
    "read_tensor_file": "tensor_files",
    "save": "saving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
