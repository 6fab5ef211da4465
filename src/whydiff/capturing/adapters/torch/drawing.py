"""Draws of a live run that begin from another state of their generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.contract import Executor
from whydiff.capturing.adapters.torch.dtypes import from_payload
from whydiff.capturing.adapters.torch.environment import set_rng_state
from whydiff.capturing.adapters.torch.modes import Mode
from whydiff.capturing.adapters.torch.operators import decomposed, describe, draws
from whydiff.errors import UsageError
from whydiff.records import Intervention

DRAW_FROM = "draw-from"


def states_of(interventions: Sequence[Intervention], donor: Executor | None) -> dict[int, torch.Tensor]:
    """Number of a draw → the state that the donor's draw of the given number begins from.

    Raises:
        UsageError: the donor draws no such number, or its state was not kept.
    """
    drawn = [] if donor is None else [call for call in donor.trace.calls if call.rng]
    found = {}
    for item in interventions:
        number = int(item.value)
        state = donor.trace.payload(drawn[number].rng) if donor is not None and number < len(drawn) else None
        if state is None:
            raise UsageError("The other side has no such draw.", actual=str(item))
        found[int(item.target)] = from_payload(state)
    return found


class Drawing(Mode):
    """Counts the draws of what runs under it as a recorder does, and sets the generator's state before some.

    Args:
        states: number of a draw → state.
    """

    def __init__(self, states: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._states, self._count = dict(states), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = describe(func)
        if operator.composite:
            with self:
                return decomposed(func, args, kwargs)
        if not operator.silent and operator.random and draws(func, args, kwargs):
            state = self._states.get(self._count)
            self._count += 1
            if state is not None:
                given = next((item for item in (*args, *kwargs.values()) if isinstance(item, torch.Generator)), None)
                device = next((a.device for a in args if isinstance(a, torch.Tensor)), kwargs.get("device"))
                set_rng_state(state, given, device)
        return func(*args, **kwargs)
