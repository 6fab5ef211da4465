"""Further pairs of ``python -m tests.scores.training``: what is trained, what is averaged, and where an update is lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Program = Callable[[], Any]
STEPS = 8


class Embedded(nn.Module):
    """A table of 8 rows, a layer and a head; the table may be taken up without a gradient."""

    def __init__(self, *, detached: bool = False) -> None:
        super().__init__()
        self.detached = detached
        self.table, self.layer, self.head = nn.Embedding(8, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.spare = nn.Linear(12, 12)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.table(ids)
        rows = rows.detach() if self.detached else rows
        return self.head(torch.tanh(self.layer(rows)))  # type: ignore[no-any-return]


def embedded(
    *,
    begin: Callable[[int, Embedded], None] | None = None,
    made: Callable[[Embedded], None] | None = None,
    groups: Callable[[Embedded], Any] = lambda model: model.parameters(),
    detached: bool = False,
) -> Program:
    """AdamW on a small model with an embedding.

    Args:
        begin: called with (step, model) as a step begins.
        made: called with the model before its optimizer is made.
        groups: what the optimizer is given.
        detached: the table's rows are taken up without a gradient.
    """

    def program() -> None:
        torch.manual_seed(0)
        model = Embedded(detached=detached)
        if made is not None:
            made(model)
        optimizer = torch.optim.AdamW(groups(model), lr=1e-2, weight_decay=0.0)
        ids, labels = torch.randint(0, 8, (STEPS, 16)), torch.randint(0, 4, (STEPS, 16))
        for step in range(STEPS):
            if begin is not None:
                begin(step, model)
            optimizer.zero_grad()
            F.cross_entropy(model(ids[step]), labels[step]).backward()
            optimizer.step()

    return program


def frozen(step: int) -> Callable[[int, Embedded], None]:
    """The table is trained from a step on."""

    def begin(now: int, model: Embedded) -> None:
        model.table.weight.requires_grad_(now >= step)

    return begin


def still_table(model: Embedded) -> Any:
    """The table in a group of its own that moves by nothing."""
    others = [p for name, p in model.named_parameters() if name != "table.weight"]
    return [{"params": others}, {"params": [model.table.weight], "lr": 0.0}]


def all_but_table(model: Embedded) -> Any:
    return [p for name, p in model.named_parameters() if name != "table.weight"]


def freeze_table(model: Embedded) -> None:
    model.table.weight.requires_grad_(False)


def freeze_spare(model: Embedded) -> None:
    model.spare.requires_grad_(False)


def by_hand(update: Callable[[nn.Module, dict[str, Any]], None], dtype: torch.dtype = torch.float32) -> Program:
    """A perceptron whose update is written by hand; ``update(model, kept)`` may keep what it needs."""

    def program() -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 4)).to(dtype)
        inputs, labels = torch.randn(STEPS, 16, 12).to(dtype), torch.randint(0, 4, (STEPS, 16))
        kept: dict[str, Any] = {}
        for x, y in zip(inputs, labels, strict=True):
            model.zero_grad()
            F.cross_entropy(model(x).float(), y).backward()
            with torch.no_grad():
                update(model, kept)

    return program


def with_masters(model: nn.Module, kept: dict[str, Any]) -> None:
    """The update goes to float32 copies; the model has them rounded."""
    masters = kept.setdefault("masters", [p.detach().float() for p in model.parameters()])
    for master, p in zip(masters, model.parameters(), strict=True):
        assert p.grad is not None
        master.sub_(p.grad.float(), alpha=0.01)
        p.copy_(master)


def without_masters(model: nn.Module, kept: dict[str, Any]) -> None:
    for p in model.parameters():
        assert p.grad is not None
        p.sub_(p.grad, alpha=0.01)


def decayed_beside(model: nn.Module, kept: dict[str, Any]) -> None:
    """Momentum of the gradient alone; the weights are decayed beside it."""
    for p, buffer in zip(model.parameters(), _buffers(model, kept), strict=True):
        buffer.mul_(0.9).add_(p.grad)
        p.mul_(1 - 0.1 * 0.1).add_(buffer, alpha=-0.1)


def decayed_within(model: nn.Module, kept: dict[str, Any]) -> None:
    """The decay goes through the momentum."""
    for p, buffer in zip(model.parameters(), _buffers(model, kept), strict=True):
        buffer.mul_(0.9).add_(p.grad).add_(p, alpha=0.1)
        p.add_(buffer, alpha=-0.1)


def decay_as_factor(model: nn.Module, kept: dict[str, Any]) -> None:
    for p in model.parameters():
        assert p.grad is not None
        p.mul_(1 - 0.1 * 0.1).sub_(p.grad, alpha=0.1)


def decay_in_gradient(model: nn.Module, kept: dict[str, Any]) -> None:
    for p in model.parameters():
        assert p.grad is not None
        p.sub_(p.grad.add(p, alpha=0.1), alpha=0.1)


def _buffers(model: nn.Module, kept: dict[str, Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = kept.setdefault("buffers", [torch.zeros_like(p) for p in model.parameters()])
    return found


def tied(times: int) -> Program:
    """Two layers share a weight; the loop over layers updates it once, or once for each layer."""

    def program() -> None:
        torch.manual_seed(0)
        layers = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)])
        layers[1].weight = layers[0].weight
        inputs, labels = torch.randn(STEPS, 16, 12), torch.randint(0, 4, (STEPS, 16))
        model = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
        for x, y in zip(inputs, labels, strict=True):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                seen: list[Any] = []
                for p in (p for layer in layers for p in layer.parameters()):
                    if times == 2 or not any(p is one for one in seen):
                        assert p.grad is not None
                        p.sub_(p.grad, alpha=0.1)
                    seen.append(p)

    return program


def averaged(first: int | None, *, used_at: int | None = 5) -> Program:
    """Stochastic weight averaging: from a step on the weights are summed, and later training goes on with their mean."""

    def program() -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        inputs, labels = torch.randn(STEPS, 16, 12), torch.randint(0, 4, (STEPS, 16))
        mean, count = copy.deepcopy(model), 0
        for step in range(STEPS):
            if step == used_at:
                model.load_state_dict(mean.state_dict())
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[step]), labels[step]).backward()
            optimizer.step()
            if first is not None and step >= first:
                count += 1
                with torch.no_grad():
                    for one, p in zip(mean.parameters(), model.parameters(), strict=True):
                        one.lerp_(p, 1 / count)

    return program


def smoothed(own: bool) -> Program:
    """Label smoothing as the library computes it, and written out."""

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if not own:
            return F.cross_entropy(logits, labels, label_smoothing=0.1)
        logs = torch.log_softmax(logits, -1)
        picked = logs.gather(-1, labels[:, None]).squeeze(-1)
        return -(0.9 * picked + 0.1 * logs.mean(-1)).mean()

    def program() -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        inputs, labels = torch.randn(STEPS, 16, 12), torch.randint(0, 4, (STEPS, 16))
        for x, y in zip(inputs, labels, strict=True):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()

    return program


S, R, P, I = ("semantic",), ("rounding", "identical"), ("precision",), ("identical",)  # noqa: E741
PAIRS: dict[str, tuple[Callable[[], tuple[Program, Program]], tuple[str, ...], str, str, int | None]] = {
    "table_frozen": (lambda: (embedded(), embedded(made=freeze_table)), S, "TR FO", "the embedding is frozen", 0),
    "table_released_late": (
        lambda: (embedded(begin=frozen(2)), embedded(begin=frozen(3))),
        S,
        "TR FO",
        "the embedding is trained a step later",
        2,
    ),
    "table_not_in_optimizer": (
        lambda: (embedded(), embedded(groups=all_but_table)),
        S,
        "TR FO",
        "the embedding is not in the optimizer",
        1,
    ),
    "table_detached": (
        lambda: (embedded(), embedded(detached=True)),
        S,
        "FO",
        "no gradient reaches the embedding, which nobody froze: no cause that names freezing may be told",
        0,
    ),
    "table_at_rest": (
        lambda: (embedded(groups=still_table), embedded(groups=all_but_table)),
        I,
        "",
        "a rate of 0 and not being there are one",
        None,
    ),
    "unread_layer_frozen": (
        lambda: (embedded(), embedded(made=freeze_spare)),
        I,
        "",
        "what gets no gradient is frozen",
        None,
    ),
    "masters_missing": (
        lambda: (by_hand(with_masters, torch.bfloat16), by_hand(without_masters, torch.bfloat16)),
        P,
        "TR PR ST",
        "updates are rounded into bfloat16 weights, where the reference keeps float32 ones",
        None,
    ),
    "decay_in_momentum": (
        lambda: (by_hand(decayed_beside), by_hand(decayed_within)),
        S,
        "FO TR",
        "the decay goes through the momentum",
        None,
    ),
    "decay_in_gradient": (
        lambda: (by_hand(decay_as_factor), by_hand(decay_in_gradient)),
        R,
        "",
        "without momentum both are one function",
        None,
    ),
    "tied_updated_twice": (lambda: (tied(1), tied(2)), S, "FO TR", "the shared weight is updated twice", 1),
    "average_begins_late": (lambda: (averaged(2), averaged(3)), S, "ST FO IN", "the mean is over fewer steps", 5),
    "average_unused": (
        lambda: (averaged(2, used_at=None), averaged(None, used_at=None)),
        I,
        "",
        "an average that nobody reads",
        None,
    ),
    "smoothed_by_hand": (lambda: (smoothed(False), smoothed(True)), R, "", "the same loss written out", None),
}
"""Name → the pair, its verdict, groups of codes as in `tests.scores.training`, the answer in words, the step."""
