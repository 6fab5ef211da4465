"""What causes of several ranks share: how they are asked, and how their examples are run."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from whydiff.capturing.record import capture
from whydiff.errors import CaptureError
from whydiff.explain.case import Case
from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.ranked import RankedExperiments
from whydiff.locate.ranked import Ranked
from whydiff.records import Cause

SECONDS = 120
"""After which ranks of an example are ended."""


class RankedRule(CauseRule):
    """A cause that is asked where several ranks are compared with one process."""

    several_ranks = True

    def detect(self, case: Case) -> Iterator[Cause]:
        """What this cause says of the ranks; nothing where there are none."""
        if case.ranked is not None:
            yield from self.among(case.ranked, case.together)

    @abstractmethod
    def among(self, ranked: Ranked, experiments: RankedExperiments) -> Iterator[Cause]:
        """What this cause says of several ranks, with its experiments."""


def recorded(program: Callable[[int, int], Any], ranks: int = 1) -> str:
    """The trace of a program that is run by one process or several: path of a folder, which is removed when Python ends.

    Args:
        program: called with (rank, how many there are).
        ranks: processes; more than one have a process group (gloo).

    Raises:
        CaptureError: a process failed, and has printed why, or did not end in `SECONDS`.
    """
    folder = Path(tempfile.mkdtemp(prefix="whydiff-ranks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    children = [_begun(program, rank, ranks, folder) for rank in range(ranks)]
    left, failed = set(children), set[int]()
    until = time.monotonic() + SECONDS
    while left and time.monotonic() < until:
        for child in tuple(left):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                left.remove(child)
                failed |= {child} if status else set()
        time.sleep(0.01)
    for child in left:
        os.kill(child, 9)
        os.waitpid(child, 0)
    if left or failed:
        ranks_named = ", ".join(str(rank) for rank, child in enumerate(children) if child in left | failed)
        raise CaptureError("A program on several ranks did not run to its end.", actual=f"rank {ranks_named}")
    return str(folder / "run.trace")


def _begun(program: Callable[[int, int], Any], rank: int, ranks: int, folder: Path) -> int:
    import torch

    child = os.fork()
    if child:
        return child
    status = 1
    try:
        torch.set_num_threads(1)
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks))
        if ranks > 1:
            store = f"file://{folder / 'store'}"
            torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
        with capture(folder / "run.trace"):
            program(rank, ranks)
        if ranks > 1:
            torch.distributed.destroy_process_group()
        status = 0
    finally:  # nothing comes back to the program that was forked
        if status:
            traceback.print_exc()
        os._exit(status)
