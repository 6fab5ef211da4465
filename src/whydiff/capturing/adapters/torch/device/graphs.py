"""CUDA graphs that a program replays while it is captured: what runs inside them tells no dispatch mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def replays_told(before: Callable[[], None], after: Callable[[], None]) -> Iterator[None]:
    """Have every replay of a CUDA graph on this process tell so, just before and just after it is launched."""
    graphs: Any = torch.cuda.CUDAGraph
    original = graphs.replay

    def replay(graph: Any) -> Any:
        before()
        result = original(graph)
        after()
        return result

    graphs.replay = replay
    try:
        yield
    finally:
        graphs.replay = original
