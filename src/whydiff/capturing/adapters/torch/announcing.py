"""Collectives are told of before they begin: one that hangs is known by its place, and by what it was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from whydiff.capturing.adapters.torch.collectives import rank
from whydiff.capturing.adapters.torch.operators import Operator
from whydiff.capturing.adapters.torch.rows import Making, Row
from whydiff.records import Call

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
