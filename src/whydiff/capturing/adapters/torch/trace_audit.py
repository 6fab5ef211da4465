"""Range audit of a recorded trace: the same recorder, over a replay."""

from __future__ import annotations

from typing import Any

from whydiff.capturing.adapters.torch.executor import Executor
from whydiff.capturing.adapters.torch.range_recorder import RangeRecorder
from whydiff.numbers.ranges.audit import Audit
from whydiff.records import Call, Phase


class _Replayed:
    """Stands for `Scopes` while recorded calls are executed: scope, phase and step are those of the call."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self.step = 0

    def phase_and_scope(self) -> tuple[Phase, str]:
        """Of the call that is executed now."""
        assert self.call is not None
        return self.call.site.phase, self.call.site.scope


def audit_trace(executor: Executor) -> Audit:
    """Execute a whole trace and measure everything that its ops write."""
    place: Any = _Replayed()
    recorder = RangeRecorder(place)
    with executor.running():
        for call in executor.trace.calls:
            if call.kind == "compute":
                place.call, place.step = call, call.site.step
                with recorder:
                    executor.execute(call)
            executor.release(call)
    return recorder.audit()
