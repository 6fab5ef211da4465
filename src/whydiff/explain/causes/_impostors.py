"""A small model and a changed copy of it: what causes of state, settings and modes are deceived with."""

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


__all__ = ["changed", "model", "other_activation"]
