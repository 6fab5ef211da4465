"""SGD with decayed weights: ``loop``; ``within`` (the decay goes through the momentum); ``lists`` of tensors, the same."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.1


def _trained(update: Callable[[list[torch.Tensor], list[torch.Tensor]], None]) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 4))
    generator = torch.Generator().manual_seed(5)
    inputs, labels = torch.randn(8, 16, 12, generator=generator), torch.randint(0, 4, (8, 16), generator=generator)
    parameters = list(model.parameters())
    buffers = [torch.zeros_like(p) for p in parameters]
    losses = []
    for x, y in zip(inputs, labels, strict=True):
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():
            update(parameters, buffers)
        losses.append(loss.detach())
    return torch.stack(losses)


def _loop(parameters: list[Any], buffers: list[Any]) -> None:
    for p, buffer in zip(parameters, buffers, strict=True):
        buffer.mul_(MOMENTUM).add_(p.grad)
        p.mul_(1 - RATE * DECAY)
        p.add_(buffer, alpha=-RATE)


def _within(parameters: list[Any], buffers: list[Any]) -> None:
    gradients = [p.grad for p in parameters]
    torch._foreach_mul_(buffers, MOMENTUM)
    torch._foreach_add_(buffers, gradients)
    torch._foreach_add_(buffers, parameters, alpha=DECAY)
    torch._foreach_add_(parameters, buffers, alpha=-RATE)


def _lists(parameters: list[Any], buffers: list[Any]) -> None:
    gradients = [p.grad for p in parameters]
    torch._foreach_mul_(buffers, MOMENTUM)
    torch._foreach_add_(buffers, gradients)
    torch._foreach_mul_(parameters, 1 - RATE * DECAY)
    torch._foreach_add_(parameters, buffers, alpha=-RATE)


def loop() -> torch.Tensor:
    """The recurrence as its paper has it."""
    return _trained(_loop)


def within() -> torch.Tensor:
    """Another recurrence: the decay is added to the momentum."""
    return _trained(_within)


def lists() -> torch.Tensor:
    """The same recurrence as `loop`."""
    return _trained(_lists)
