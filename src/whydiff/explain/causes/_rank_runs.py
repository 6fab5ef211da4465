"""How the examples of causes of several ranks are run: by one process, or by several with a process group."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whydiff.capturing.record import capture
from whydiff.errors import CaptureError, one_line
from whydiff.explain.causes._environment import new_folder

if TYPE_CHECKING:  # there is none on Windows
    from multiprocessing.context import ForkServerContext

SECONDS = 120
"""After which ranks of an example are ended."""

_IMPORTED = ["torch.distributed", "whydiff.capturing.adapters.torch", __name__]
_IF_HERE = ["torch._dynamo"]
"""What an optimizer imports, in each process anew: longer than a small program runs."""


def recorded(program: Callable[[int, int], Any], ranks: int = 1, *, level: str = "op") -> str:
    """The trace of a program that is run by one process or several: path of a folder, which is removed when Python ends.

    The processes are forked from one that has imported PyTorch and runs no thread; in a fork of this one, what its
    threads hold would stay locked.

    Args:
        program: called with (rank, how many there are); a function of a module, or a partial of one, so that it can be
            sent to the processes.
        ranks: processes; more than one have a process group (gloo).
        level: what is recorded.

    Raises:
        CaptureError: a process failed, or did not end in `SECONDS`; what it was raised from has the traceback.
    """
    folder, context = new_folder(), forks()
    children = [context.Process(target=_run, args=(program, rank, ranks, folder, level)) for rank in range(ranks)]
    for child in children:
        child.start()
    try:
        failed = _failed(children)
    finally:
        for child in children:
            child.kill()
            child.join()
    if failed:
        words = {rank: file.read_text() for rank in failed if (file := _told(folder, rank)).exists()}
        first = min(failed, key=lambda rank: _told(folder, rank).stat().st_mtime_ns if rank in words else 0)
        last, _, told = words.get(first, "").partition("\n")
        last = last or f"status {children[first].exitcode}, nothing said"
        raise CaptureError(
            "A program on several ranks did not run to its end.", actual=f"rank {first}: {last}"
        ) from RuntimeError(told)
    return str(folder / "run.trace")


def forks() -> ForkServerContext:
    """What starts processes as forks of one that has imported PyTorch, and what comes with it to a rank."""
    context = get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED, *(name for name in _IF_HERE if name in sys.modules)])
    return context


def _failed(children: Sequence[BaseProcess]) -> list[int]:
    """Which processes failed, as soon as one has: the others may wait for it forever; or which run for too long."""
    left, until = {child.sentinel: number for number, child in enumerate(children)}, time.monotonic() + SECONDS
    while left:
        ended = connection.wait([*left], max(0.0, until - time.monotonic()))
        numbers = [left.pop(one) for one in ended if isinstance(one, int)] if ended else [*left.values()]
        for number in numbers:
            children[number].join(0)
        if failed := [number for number in numbers if children[number].exitcode != 0]:
            return failed
    return []


def _told(folder: Path, rank: int) -> Path:
    return folder / f"failed-{rank}.txt"


def _run(program: Callable[[int, int], Any], rank: int, ranks: int, folder: Path, level: str) -> None:
    """One of the processes."""
    import torch

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks))
    try:
        if ranks > 1:
            store = f"file://{folder / 'store'}"
            torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
        with capture(folder / "run.trace", level=level):
            program(rank, ranks)
        if ranks > 1:
            torch.distributed.destroy_process_group()
    except BaseException as error:
        _told(folder, rank).write_text(f"{one_line(error)}\n{traceback.format_exc()}")
        raise
