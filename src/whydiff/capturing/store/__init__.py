"""Traces on disk, as described in ``docs/reference/trace-format.md``.

`TraceWriter` writes while a run goes on, `save` writes a trace held in memory, `open_trace` opens one, and
`read_tensor_file` reads plain tensor files. Opening runs no code and unpickles nothing.
"""

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
