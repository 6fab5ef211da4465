"""The examples of causes of several ranks, and how they are run: by one process, or by several with a process group."""

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


def averaged(rank: int, ranks: int) -> None:
    """Three steps of gradient descent on this rank's rows, gradients averaged."""
    train(rank, ranks, lambda grad: grad.div_(ranks))


def summed(rank: int, ranks: int) -> None:
    """The division is forgotten."""
    train(rank, ranks, lambda grad: grad)


def doubled(rank: int, ranks: int) -> None:
    """The division is made twice."""
    train(rank, ranks, lambda grad: grad.div_(ranks).div_(ranks))


def kept(rank: int, ranks: int) -> None:
    """Nothing is exchanged."""
    train(rank, ranks, None)


def scaled(rank: int, ranks: int) -> None:
    """The loss is three times as large on several ranks."""
    train(rank, ranks, lambda grad: grad.div_(ranks), loss=3.0 if ranks > 1 else 1.0)


def stepped(rank: int, ranks: int) -> None:
    """The learning rate is twice as large on several ranks."""
    train(rank, ranks, lambda grad: grad.div_(ranks), rate=0.2 if ranks > 1 else 0.1)


def narrow(rank: int, ranks: int) -> None:
    """Gradients are sent in bfloat16."""
    train(rank, ranks, lambda grad: grad.div_(ranks), dtype="bfloat16")


def swapped(rank: int, ranks: int) -> None:
    """Rank 0 takes the rows of rank 1, and the other way round; their targets stay."""
    train(rank, ranks, lambda grad: grad.div_(ranks), rows=lambda at: (at + 1) % ranks)


def drifting(rank: int, ranks: int) -> None:
    """A weight of the last rank is doubled before the second step."""
    train(rank, ranks, lambda grad: grad.div_(ranks), drift=lambda step: step == 1 and ranks > 1 and rank == ranks - 1)


def everywhere(rank: int, ranks: int) -> None:
    """A weight of every rank is doubled before the second step, where there are several."""
    train(rank, ranks, lambda grad: grad.div_(ranks), drift=lambda step: step == 1 and ranks > 1)


def mirrored(rank: int, ranks: int) -> None:
    """Each of several ranks takes its own rows in reverse order; their targets stay."""
    train(rank, ranks, lambda grad: grad.div_(ranks), flip=ranks > 1)


def rounded_after(rank: int, ranks: int) -> None:
    """Averaged gradients are rounded to bfloat16 after they were sent as they are."""
    train(rank, ranks, lambda grad: grad.div_(ranks).bfloat16().float())


def centred(rank: int, ranks: int) -> None:
    """Rows are centred by the mean of this rank's rows."""
    _centre(rank, ranks, lambda rows, means: rows - means)


def shifted(rank: int, ranks: int) -> None:
    """Rows are centred by twice the mean of all rows."""
    _centre(rank, ranks, lambda rows, means: rows - 2 * means, every=True)


def _centre(rank: int, ranks: int, apply: Callable[[Any, Any], Any], every: bool = False) -> None:
    import torch

    class Centre(torch.nn.Module):
        def forward(self, rows: torch.Tensor, means: torch.Tensor) -> Any:
            return torch.tanh(apply(rows, means))

    torch.manual_seed(0)
    rows = torch.randn(16, 12)
    mine = rows.chunk(ranks)[rank]
    Centre()(mine, (rows if every else mine).mean(0))


def train(
    rank: int,
    ranks: int,
    after: Callable[[Any], Any] | None,
    *,
    loss: float = 1.0,
    rate: float = 0.1,
    dtype: str = "float32",
    rows: Callable[[int], int] = lambda at: at,
    drift: Callable[[int], bool] = lambda step: False,
    flip: bool = False,
) -> None:
    """Gradient descent by hand.

    Args:
        rank, ranks: which process this is.
        after: what is done to the summed gradients; None: nothing is exchanged.
        loss: its factor.
        rate: of learning.
        dtype: in which gradients are sent.
        rows: rank → whose rows it takes.
        drift: whether a weight is doubled before this step.
        flip: it takes its rows in reverse order.
    """
    import torch

    torch.manual_seed(0)
    model: Any = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.Tanh(), torch.nn.Linear(24, 4))
    inputs, targets = torch.randn(16, 12), torch.randn(16, 4)
    for step in range(3):
        with torch.no_grad():
            if drift(step):
                model[0].weight[0, 0] *= 2
        mine = inputs.chunk(ranks)[rows(rank)]
        error = model(mine.flip(0) if flip else mine) - targets.chunk(ranks)[rank]
        (error.square().mean() * loss).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if ranks > 1 and after is not None:
                    sent = parameter.grad.to(getattr(torch, dtype))
                    torch.distributed.all_reduce(sent)
                    parameter.grad.copy_(after(sent))
                parameter.sub_(parameter.grad, alpha=rate)
                parameter.grad = None
