"""Traces on disk, as described in ``docs/reference/trace-format.md``.

`TraceWriter` writes while a run goes on, `save` writes a trace held in memory, `open_trace` opens one. Opening
runs no code and unpickles nothing.
"""

from whydiff.capturing.store.reader import DiskTrace, open_trace
from whydiff.capturing.store.writer import TraceWriter, save

__all__ = ["DiskTrace", "TraceWriter", "open_trace", "save"]
