"""The smallest graph of a compiled program that still gives other numbers than its ops, as a program that runs alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whydiff.capturing.adapters import Graph, for_target
from whydiff.errors import UsageError
from whydiff.explain.ladder import apart, numbers
from whydiff.numbers.tolerance import LADDER_SECONDS, LADDER_SHARE
from whydiff.takes import PATH, SECONDS, takes


@dataclass(frozen=True, slots=True)
class SmallestGraph:
    """What `smallest_graph` wrote.

    Attributes:
        path: the program; its inputs lie beside it.
        ops: how many ops it has.
        of: how many the program's graph had.
        apart: how far its compiled form lies from its ops one by one, see `whydiff.explain.ladder.apart`.
        whole: the same of the program's graph.
        finished: whether the search came to its end within the time.
    """

    path: Path
    ops: int
    of: int
    apart: float
    whole: float
    finished: bool

    def __str__(self) -> str:
        end = "" if self.finished else " (time ran out: a smaller one may do)"
        return f"{self.path}: {self.ops} of {self.of} ops, {self.apart:.1e} of its size apart{end}"


@takes(folder=PATH, seconds=SECONDS)
def smallest_graph(
    program: Callable[..., Any], *args: Any, folder: str | Path, seconds: float = LADDER_SECONDS, **kwargs: Any
) -> SmallestGraph:
    """Cut what a program compiles with `torch.compile` down to where it differs, and save that as a program of its own.

    The graph is cut behind the first op up to which at least half of the difference is there (`LADDER_SHARE`), then before
    the last op from which on it still is; what was made before becomes an input. Every cut is compiled. Forward only.

    Args:
        program: calls compiled code.
        *args: its arguments.
        folder: where ``program.py`` and ``inputs.pt`` are written.
        seconds: no further cut is tried after this time.
        **kwargs: its named arguments.

    Returns:
        What was written.

    Raises:
        UsageError: nothing is compiled, or no graph alone gives other numbers compiled than its ops do.
        whydiff.errors.TargetError: the program raised.
    """
    graphs = for_target(program).run(program, args, kwargs).graphs()
    if not graphs:
        raise UsageError("No graph of this program can be cut.", expected="a program that calls torch.compile")
    began = time.monotonic()
    graph = max(graphs, key=_apart)
    whole = _apart(graph)
    if not whole:
        raise UsageError(
            "Every graph that this program compiles gives, alone, the bits of its own ops.",
            expected="a difference that one graph makes in its forward pass",
        )
    cutting = _Cutting(graph, whole, began + seconds)
    cut, far = cutting.smallest()
    finished = time.monotonic() < cutting.until
    return SmallestGraph(cut.save(Path(folder)), cut.ops, graph.ops, far, whole, finished)


@dataclass
class _Cutting:
    graph: Graph
    whole: float
    until: float

    def smallest(self) -> tuple[Graph, float]:
        places = self.graph.places
        best, far = self.graph, self.whole
        low, high = -1, len(places) - 1  # up to `low` it is not there, up to `high` it is
        while high >= 0 and high - low > 1 and time.monotonic() < self.until:
            middle = (low + high) // 2
            cut, found = self._cut(0, places[middle])
            if found:
                high, best, far = middle, cut, found
            else:
                low = middle
        last, (low, high) = high, (0, high + 1)  # from `low` on it is there, from `high` on there is nothing left
        while last >= 0 and high - low > 1 and time.monotonic() < self.until:
            middle = (low + high) // 2
            cut, found = self._cut(places[middle], places[last])
            if found:
                low, best, far = middle, cut, found
            else:
                high = middle
        return best, far

    def _cut(self, first: int, last: int) -> tuple[Graph, float]:
        """A part, and how far it lies apart; 0 if that is less than the share that counts."""
        cut = self.graph.part(first, last)
        far = _apart(cut)
        return cut, far if far >= LADDER_SHARE * self.whole else 0.0


def _apart(graph: Graph) -> float:
    given = graph.given(compiled=False), graph.given(compiled=True)
    if given[0] is None or given[1] is None:
        return 0.0
    return apart(numbers(given[0]), numbers(given[1]))
