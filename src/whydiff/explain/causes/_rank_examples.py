"""Programs of the examples of causes of several ranks: ``program(rank, how many)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


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
