"""What ops give back, as a recorder looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from whydiff.capturing.adapters.torch.arguments import lazy_bits
from whydiff.capturing.adapters.torch.collectives import local
from whydiff.capturing.adapters.torch.dtypes import not_comparable
from whydiff.capturing.adapters.torch.rows import Row
from whydiff.capturing.adapters.torch.storages import Storage
from whydiff.records import Phase


class Begun(NamedTuple):
    """What was written down of an op before it ran."""

    phase: Phase
    scope: str
    reads: list[Row]
    touched: list[tuple[int, torch.Tensor, Storage]]
    template: Any
    random: str
    context: int
    held: Sequence[int]


def is_hole(reads: Sequence[Row], args: Sequence[Any]) -> bool:
    """Whether a call cannot be executed again from its record: what follows starts from the values it gave.

    It reads what has no plain storage (a sparse, nested or quantised tensor), or an object of a library (packed
    weights).
    """
    for row in reads:
        if row[1] == -1:
            return True
    return any(isinstance(item, torch.ScriptObject) for item in args if type(item) is not torch.Tensor)


def resolved(tensor: torch.Tensor) -> torch.Tensor:
    """What a lazily conjugated or negated result shows (the op that resolves it is recorded), or a rank's part."""
    tensor = local(tensor)
    if lazy_bits(tensor) and not not_comparable(tensor):
        return tensor.detach().resolve_conj().resolve_neg()
    return tensor


def flat(result: Any) -> Iterable[torch.Tensor]:
    """Every tensor of a nested result, in order."""
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from flat(item)
