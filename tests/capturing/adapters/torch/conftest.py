"""Captures and replays that the adapter's tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from whydiff.capturing.adapters import for_framework
from whydiff.capturing.adapters.torch.run import Run
from whydiff.records import Call, ObserverCheck, Trace

sys.path.insert(0, str(Path(__file__).parent))


@dataclass
class Replayed:
    """What executing every call of a trace again gave."""

    trace: Trace
    executed: int = 0
    failed: dict[str, list[Call]] = field(default_factory=dict)
    unfaithful: list[Call] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)
    returned: dict[str, torch.Tensor] = field(default_factory=dict)
    observer: ObserverCheck | None = None

    @property
    def faithful(self) -> bool:
        """Every call was executed and gave its recorded bits."""
        return bool(self.executed) and not self.failed and not self.unfaithful


def replay_trace(trace: Trace) -> Replayed:
    """Execute every call; nothing is taken from recorded outputs."""
    found = Replayed(trace)
    executor = for_framework("torch").executor(trace)
    with executor.running():
        for call in trace.calls:
            why = executor.execute(call)
            if call.kind == "compute":
                found.executed += 1
                if why:
                    found.failed.setdefault(why, []).append(call)
                elif executor.faithful(call) is False:
                    found.unfaithful.append(call)
            events = (*call.reads, *call.writes)
            found.skipped |= {e.skipped for e in events if e.skipped not in ("", "overwritten", "view")}
            if call.kind == "return":
                found.returned |= {e.site.slot: executor.read(e).clone() for e in call.reads if not e.skipped}
            executor.release(call)
    return found


@pytest.fixture
def replay() -> Callable[[Trace], Replayed]:
    return replay_trace


@pytest.fixture
def captured() -> Callable[..., Trace]:
    """Capture ``target(*args, **kwargs)`` live."""
    return lambda target, *args, level="op", **kwargs: Run(target, args, kwargs).capture(level=level)


@pytest.fixture
def replayed() -> Callable[..., Replayed]:
    """Capture live, check the observer, replay."""

    def do(target: Any, *args: Any, **kwargs: Any) -> Replayed:
        run = Run(target, args, kwargs)
        trace = run.capture()
        check = run.check(trace)
        found = replay_trace(trace)
        found.observer = check
        return found

    return do
