"""Programs of two ranks for tests: gloo, tiny models, bounded in time."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import whydiff

SECONDS = 120
"""Most that two processes may take on a slow machine."""


def environment() -> dict[str, str]:
    """One thread a process, and this whydiff."""
    source = str(Path(whydiff.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def alone() -> Iterator[None]:
    """A process group of this process alone."""
    import torch.distributed as dist

    with tempfile.NamedTemporaryFile() as file:
        dist.init_process_group("gloo", init_method=f"file://{file.name}", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()
