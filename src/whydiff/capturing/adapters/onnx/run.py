"""Running an ONNX file: plainly, with every value inside exposed, and at every level of optimisation."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from typing import Any

from whydiff.capturing.adapters import contract
from whydiff.capturing.adapters._live import called, checked, cpu_name
from whydiff.capturing.adapters._outputs import outputs_of, same_outputs
from whydiff.capturing.adapters.contract import Compiled, Outputs, Rung, Way
from whydiff.capturing.adapters.onnx.model import LEVELS, OnnxModel, compiled_as, returned, rungs
from whydiff.capturing.adapters.onnx.recording import record, values_inside
from whydiff.capturing.adapters.onnx.values import READER
from whydiff.errors import UsageError
from whydiff.records import Environment, Intervention, ObserverCheck, Output, RecordedTrace, Trace


def environment() -> Environment:
    """Versions of what runs an ONNX file."""
    import numpy
    import onnx
    import onnxruntime

    versions = {
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return Environment(versions=versions, hardware={"cpu": cpu_name()})


class Run(contract.Run):
    """One file on one input.

    Args:
        target: the opened file.
        args: its inputs, in order.

    Raises:
        UsageError: another number of inputs.
    """

    framework = "onnx"

    def __init__(self, target: OnnxModel, args: Sequence[Any]) -> None:
        self.target, self.args = target, tuple(args)
        self.feeds = target.feeds(args)
        self._anchor: tuple[Output, ...] | None = None
        self._observed: tuple[Output, ...] = ()

    def anchor(self) -> tuple[Output, ...]:
        """What the file gives back as ONNX Runtime runs it by default."""
        if self._anchor is None:
            self._anchor = outputs_of(called(self.target, self.args, {}), READER)
        return self._anchor

    def capture(self, *, level: str = "op") -> RecordedTrace:
        """Run a copy that gives every value inside back, rewritten as much as keeps the plain run's bits.

        Raises:
            TargetError: the model cannot be run.
            UsageError: another level than ``"op"``.
        """
        if level != "op":
            raise UsageError("ONNX files are captured node by node.", actual=level, expected="op")
        anchor = self.anchor()
        feeds = self.feeds
        outputs = self.target.outputs
        exposed = [name for name in values_inside(self.target.graph) if name not in outputs]
        for rung in LEVELS:
            found = self.target.run(feeds, rung, exposed=exposed)
            self._observed = outputs_of(returned(found[: len(outputs)]), READER)
            if same_outputs(anchor, self._observed)[0]:
                break
        values = dict(zip((*outputs, *exposed), found, strict=True)) | feeds
        return record(
            self.target, values, environment(), anchor, f"values were taken at level {rung!r} of optimisation"
        )

    def plain(self, interventions: Iterable[Intervention] = (), donor: contract.Executor | None = None) -> Outputs:
        """What it gives back, without any instrument.

        Raises:
            UsageError: there is an intervention.
        """
        if tuple(interventions):
            raise UsageError("A session of ONNX Runtime takes no interventions.", where=str(self.target.path))
        return list(zip(self.target.outputs, self.target.run(self.feeds), strict=True))

    def check(self, trace: Trace | None = None) -> ObserverCheck:
        """H0 and H0′ (plain) against H1 (the capture made in between)."""
        return checked(self.anchor(), outputs_of(self.target(*self.args), READER), self._observed)

    def rungs(self) -> tuple[Rung, ...]:
        """ONNX Runtime's levels of optimisation."""
        return rungs()

    def compiled_as(self, way: Way) -> Compiled:
        """What the file gives back at another level, some of the runtime's rewritings left out."""
        return compiled_as(self.target, self.feeds, way)
