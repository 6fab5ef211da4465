"""Programs of two ranks for tests: gloo, tiny models, bounded in time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import whydiff

SECONDS = 120
"""Most that two processes may take on a slow machine."""


def launched(cwd: Path, *words: object, ranks: int = 2, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """``whydiff capture WORDS[0] -- python -m torch.distributed.run … WORDS[1:]``, with a port of its own."""
    out, *rest = map(str, words)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(free_port())]
    return command(cwd, "capture", "-o", out, "--", sys.executable, *torchrun, *rest, seconds=seconds)


def command(cwd: Path, *words: object, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Run whydiff's command line in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "whydiff.cli", *map(str, words)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=seconds,
    )


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
