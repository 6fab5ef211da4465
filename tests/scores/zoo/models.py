"""Small models and a training loop that several kinds share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> Any:
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 8, generator=generator)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses, [p.detach().clone() for p in model.parameters()]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.back = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).chunk(3, -1)
        return self.back(torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v)
