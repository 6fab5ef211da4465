"""Twelve steps, of which the last six are also reached from a checkpoint, with everything restored or not."""

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

HALF = 6
CHECKPOINT = Path(tempfile.gettempdir()) / "whydiff_resume.pt"
WEIGHTS = Path(tempfile.gettempdir()) / "whydiff_weights.pt"


def _built() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))


def _taken(model: nn.Module, optimizer: Any, scheduler: Any, first: int, last: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    inputs, labels = torch.randn(12, 16, 12, generator=generator), torch.randint(0, 4, (12, 16), generator=generator)
    losses = []
    for step in range(first, last):
        if first == 0 and step == HALF:
            state = {"m": model.state_dict(), "o": optimizer.state_dict(), "s": scheduler.state_dict()}
            torch.save({**state, "r": torch.get_rng_state()}, CHECKPOINT)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs[step]), labels[step])
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def full() -> torch.Tensor:
    """The losses of steps 6 to 11 of the uninterrupted run."""
    parts = _built()
    torch.manual_seed(7)
    return _taken(*parts, 0, 12)[HALF:]


def _resumed(restored: str) -> torch.Tensor:
    saved = torch.load(CHECKPOINT)
    model, optimizer, scheduler = _built()
    model.load_state_dict(saved["m"])
    torch.manual_seed(7)
    if "o" in restored:
        optimizer.load_state_dict(saved["o"])
    if "s" in restored:
        scheduler.load_state_dict(saved["s"])
    if "r" in restored:
        torch.set_rng_state(saved["r"])
    return _taken(model, optimizer, scheduler, HALF, 12)


def good() -> torch.Tensor:
    return _resumed("osr")


def no_optimizer() -> torch.Tensor:
    return _resumed("sr")


def no_random() -> torch.Tensor:
    return _resumed("os")


def no_schedule() -> torch.Tensor:
    return _resumed("or")


def nothing() -> torch.Tensor:
    return _resumed("")


def _by_hand(model: nn.Module, first: int, last: int) -> torch.Tensor:
    inputs = torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(64).reshape(4, 16) % 4
    losses = []
    for step in range(first, last):
        loss = F.cross_entropy(model(inputs[step]), labels[step])
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.1 * p.grad)
        losses.append(loss.detach())
        if (first, step) == (0, 1):
            torch.save(model.state_dict(), WEIGHTS)
    return torch.stack(losses)


def hand_full() -> torch.Tensor:
    """The last two losses of four steps by hand."""
    torch.manual_seed(0)
    return _by_hand(nn.Linear(12, 4), 0, 4)[2:]


def hand_resumed() -> torch.Tensor:
    """The same from the weights in a file."""
    model = nn.Linear(12, 4)
    model.load_state_dict(torch.load(WEIGHTS))
    return _by_hand(model, 2, 4)
