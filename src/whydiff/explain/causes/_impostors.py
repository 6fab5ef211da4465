"""A small model and a changed copy of it, and a run that goes on: what causes of state and training are deceived with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any


def changed(change: Callable[[Any], None], **options: Any) -> tuple[Any, Any]:
    """The model in evaluation mode, and a copy of it after ``change``; options as for `model`."""
    import torch

    reference = model(**options)
    candidate = copy.deepcopy(reference)
    with torch.no_grad():
        change(candidate)
    ids = torch.tensor([[1, 5, 3, 7], [2, 4, 6, 8]])
    return lambda: reference(ids), lambda: candidate(ids)


def model(*, tied: bool = False) -> Any:
    """An embedding, a linear layer, norms, a table that is added, dropout and a head.

    Beside them: a parameter, a buffer and a number that nothing reads, and an activation that is no module.

    Args:
        tied: the head shares the embedding's weight.
    """
    import torch

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.linear = torch.nn.Embedding(16, 8), torch.nn.Linear(8, 8)
            self.norm, self.batch = torch.nn.LayerNorm(8), torch.nn.BatchNorm1d(4)
            self.dropout, self.head = torch.nn.Dropout(0.5), torch.nn.Linear(8, 16, bias=False)
            self.register_buffer("table", torch.linspace(0.1, 1.7, 8), persistent=False)
            self.unread = torch.nn.Parameter(torch.randn(8))
            self.register_buffer("spare", torch.randn(8), persistent=False)
            self.revision = 1
            self.drop, self.activation = 0.0, [torch.tanh]
            if tied:
                self.head.weight = self.embed.weight

        def forward(self, ids: Any) -> Any:
            hidden = self.batch(self.norm(self.linear(self.embed(ids)))) + self.table
            hidden = self.activation[0](self.dropout(hidden))
            return self.head(hidden)

    torch.manual_seed(0)
    return Small().eval()


def other_activation(candidate: Any) -> None:
    """Another function in the activation's place, which no setting shows."""
    import torch

    candidate.activation = [torch.sigmoid]


def resumed(*, moments: bool = True, rate: float = 0.1, weight: float = 0.0, loss: float = 1.0) -> Any:
    """The losses of two steps that go on from two earlier ones."""
    import torch

    torch.manual_seed(0)
    data, goal = torch.randn(4, 8, 6), torch.randn(4, 8, 2)
    start = torch.nn.Linear(6, 2)

    def steps_of(model: Any, optimizer: Any, first: int, factor: float) -> list[Any]:
        losses = []
        for x, y in zip(data[first : first + 2], goal[first : first + 2], strict=True):
            optimizer.zero_grad()
            found = torch.nn.functional.mse_loss(model(x), y)
            (found * factor).backward()
            optimizer.step()
            losses.append(found.detach())
        return losses

    model = copy.deepcopy(start)
    before = torch.optim.Adam(model.parameters(), lr=0.1)
    steps_of(model, before, 0, 1.0)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(before.state_dict())

    def run() -> Any:
        resumed = copy.deepcopy(start)
        resumed.load_state_dict(weights)
        with torch.no_grad():
            resumed.bias.add_(weight)
        optimizer = torch.optim.Adam(resumed.parameters(), lr=0.1)
        if moments:
            optimizer.load_state_dict(copy.deepcopy(state))
        optimizer.param_groups[0]["lr"] = rate
        return torch.stack(steps_of(resumed, optimizer, 2, loss))

    return run
