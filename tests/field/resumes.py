"""The tail of an uninterrupted training run against a run resumed from a checkpoint, named after what was not restored."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Run = Callable[[], Any]
Pair = tuple[Run, Run]
STEPS, RESUMED = 5, 2


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(STEPS, 16, 12, generator=generator), torch.randint(0, 4, (STEPS, 16), generator=generator)


def _build(kind: str, dropout: float) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Dropout(dropout), nn.Linear(24, 4))
    if kind == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 3))


def _steps(model: nn.Module, optimizer: Any, scheduler: Any, first: int, last: int, saved: Any = None) -> Any:
    batches, labels = _data()
    losses = []
    for step in range(first, last):
        if saved is not None and step == RESUMED:
            parts = {"m": model.state_dict(), "o": optimizer.state_dict(), "s": scheduler.state_dict()}
            torch.save({**parts, "r": torch.get_rng_state()}, saved)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batches[step]), labels[step])
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def _pair(
    restored: str, kind: str = "adamw", dropout: float = 0.2, change: Callable[[Any], None] | None = None
) -> Pair:
    """The uninterrupted run, and one that restores the named parts: model, optimizer, scheduler, random state."""
    file = io.BytesIO()

    def full(saved: Any = None) -> Any:
        parts = _build(kind, dropout)
        torch.manual_seed(7)
        return _steps(*parts, 0, STEPS, saved)[RESUMED:]

    full(file)
    content = file.getvalue()

    def resumed() -> Any:
        checkpoint = torch.load(io.BytesIO(content))
        if change is not None:
            change(checkpoint)
        model, optimizer, scheduler = _build(kind, dropout)
        model.load_state_dict(checkpoint["m"])
        torch.manual_seed(7)
        if "o" in restored:
            optimizer.load_state_dict(checkpoint["o"])
        if "s" in restored:
            scheduler.load_state_dict(checkpoint["s"])
        if "r" in restored:
            torch.set_rng_state(checkpoint["r"])
        return _steps(model, optimizer, scheduler, RESUMED, STEPS)

    return lambda: full(), resumed


def everything() -> Pair:
    """A right resume."""
    return _pair("osr")


def optimizer() -> Pair:
    """The optimizer's state is lost, and with it the learning rate of the first step."""
    return _pair("sr")


def random_state() -> Pair:
    """The generator begins anew, and dropout hides other units."""
    return _pair("os")


def scheduler() -> Pair:
    """The warm-up begins anew."""
    return _pair("or")


def nothing() -> Pair:
    """The weights alone."""
    return _pair("")


def momentum() -> Pair:
    """Momentum buffers are dropped."""

    def drop(checkpoint: Any) -> None:
        checkpoint["o"]["state"] = {}

    return _pair("osr", kind="sgd", change=drop)


def count() -> Pair:
    """The count of steps begins anew, and with it the bias correction."""

    def reset(checkpoint: Any) -> None:
        for state in checkpoint["o"]["state"].values():
            state["step"] = torch.tensor(0.0)

    return _pair("osr", change=reset)


def momentum_within_one_run() -> Pair:
    """Both runs take all steps; one puts its weights into a new model and a new optimizer half-way."""

    def run(anew: bool) -> Any:
        model, optimizer, scheduler = _build("sgd", 0.0)
        first = _steps(model, optimizer, scheduler, 0, RESUMED)
        if anew:
            other, again, later = _build("sgd", 0.0)
            other.load_state_dict(model.state_dict())
            again.load_state_dict(optimizer.state_dict() | {"state": {}})
            later.load_state_dict(scheduler.state_dict())
            model, optimizer, scheduler = other, again, later
        return torch.cat([first, _steps(model, optimizer, scheduler, RESUMED, STEPS)])

    return lambda: run(False), lambda: run(True)


def momentum_of_the_tail() -> Pair:
    """Both runs are resumed, so that both have as many steps; one without its momentum."""

    def drop(checkpoint: Any) -> None:
        checkpoint["o"]["state"] = {}

    return _pair("osr", kind="sgd")[1], _pair("osr", kind="sgd", change=drop)[1]


def random_state_unused() -> Pair:
    """The generator begins anew, and nothing is drawn."""
    return _pair("os", dropout=0.0)


def by_hand() -> Pair:
    """Plain gradient descent, resumed from the right weights."""
    batches, labels = _data()

    def steps(model: nn.Linear, first: int, last: int) -> Any:
        losses = []
        for step in range(first, last):
            loss = F.cross_entropy(model(batches[step]), labels[step])
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(0.1 * parameter.grad)
            losses.append(loss.detach())
        return torch.stack(losses)

    def made() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(12, 4)

    earlier = made()
    steps(earlier, 0, 2)
    file = io.BytesIO()
    torch.save(earlier.state_dict(), file)
    content = file.getvalue()

    def resumed() -> Any:
        model = nn.Linear(12, 4)
        model.load_state_dict(torch.load(io.BytesIO(content)))
        return steps(model, 2, 4)

    return lambda: steps(made(), 0, 4)[2:], resumed
