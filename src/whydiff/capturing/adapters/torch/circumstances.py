"""What was in force while an op ran: switches of the process, and random states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.torch.collectives import rank
from whydiff.capturing.adapters.torch.environment import Flags, rng_state, switches_now
from whydiff.capturing.adapters.torch.looks import Looks
from whydiff.capturing.adapters.torch.operators import Operator
from whydiff.capturing.adapters.torch.rows import Making, Row
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.records import Call, Payload


class Circumstances(Looks):
    """Looks at what is read, and at the circumstances.

    Args:
        scopes: tells the scope.
        sink: receives (key, payload) of every random state; False: it was left out.
        fingerprints: False: nothing is read.
    """

    def __init__(self, scopes: Scopes, sink: Callable[[str, Payload], bool] | None, fingerprints: bool) -> None:
        super().__init__(scopes, fingerprints)
        self.sink = sink
        self.announcing = Announcing()
        self.contexts: list[dict[str, Any]] = []
        self._switches: tuple[Any, ...] = ()
        self._context_index = 0
        self._random_states = 0
        self.first_drawn: Payload | None = None
        """State of the global generator that was drawn from first; None: none was."""

    def _random_state(self, args: Any, kwargs: Any) -> str:
        key = f"rng/{self._random_states}"
        self._random_states += 1
        generator = kwargs.get("generator")
        device = next((a.device for a in args if isinstance(a, torch.Tensor)), kwargs.get("device"))
        if generator is None and self.first_drawn is None:
            self.first_drawn = rng_state(None, device)
        kept = self.sink is None or self.sink(key, rng_state(generator, device))
        return key if kept else ""

    def _context(self) -> int:
        switches = switches_now()
        if switches != self._switches:
            self._switches = switches
            as_dict = Flags._make(switches).as_dict()
            if as_dict in self.contexts:
                self._context_index = self.contexts.index(as_dict)
            else:
                self.contexts.append(as_dict)
                self._context_index = len(self.contexts) - 1
        return self._context_index


Place = tuple[str, str, int]
"""Phase, scope, step."""


class Announcing:
    """Makes calls without values of collectives that are about to begin.

    Attributes:
        listener: is given them; None: nobody wants them.
    """

    def __init__(self) -> None:
        self.listener: Callable[[Call], None] | None = None
        self._rank, self._told, self._step = rank().number, 0, 0
        self._occurrences: Counter[tuple[str, str, str]] = Counter()

    def tell(self, operator: Operator, place: Place, reads: Sequence[Row], template: Any) -> None:
        """Tell of a collective with its arguments."""
        if self.listener is None:
            return
        phase, scope, step = place
        if step != self._step:
            self._occurrences.clear()
            self._step = step
        key = (scope, operator.op, phase)
        given = [(row[0], -1, -1, None, 0, True, row[6], "") for row in reads]
        number = self._occurrences[key]
        call: Row = (self._told, scope, operator, phase, step, "compute", given, [], template, (), 0, "", number)
        self._occurrences[key] += 1
        self._told += 1
        self.listener(Making(self._rank).call_of(call))
