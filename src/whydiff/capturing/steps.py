"""A log of a training run: a line of JSON per step, written as the step ends, so that a killed run keeps what it had."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from whydiff.errors import TraceFormatError

SCHEMA = 1
FILE = "steps.jsonl"
Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepRecord:
    """What is known of one step, as its update is about to be made.

    Attributes:
        number: counted from 0.
        names: of the parameters and buffers.
        weights: a digest of each.
        gradients: a digest of each one's gradient; empty where it has none.
        trained: whether an optimizer updates each; all True where it is done by hand.
        state: optimizer's state by its name there, over all parameters: digests.
        settings: hyperparameters by ``"<group>.<name>"``.
        random: generator → digest of its state.
        batch: digest of what the model was given; empty: not seen.
        losses: what ``backward()`` was called on in this step.
        sample: elements of the parameters at fixed places, float32 `[k]`.
        slopes: of their gradients at the same places, NaN where there is none.
        share: how many parameters each sampled element stands for.
        seconds: since the run began.
    """

    number: int
    names: tuple[str, ...]
    weights: tuple[str, ...]
    gradients: tuple[str, ...]
    trained: tuple[bool, ...]
    state: Mapping[str, str]
    settings: Mapping[str, Any]
    random: Mapping[str, str]
    batch: str
    losses: tuple[float, ...]
    sample: Array
    slopes: Array
    share: float
    seconds: float

    @property
    def loss(self) -> float | None:
        """The sum of what was differentiated; None if nothing was."""
        return sum(self.losses) if self.losses else None


@dataclass(frozen=True, slots=True)
class StepLog:
    """A run's steps.

    Attributes:
        steps: in order.
        complete: False: the program was killed or raised.
        source: path or ``"live"``.
    """

    steps: tuple[StepRecord, ...]
    complete: bool
    source: str


class StepWriter:
    """Writes a log line by line.

    Args:
        folder: is made.
    """

    def __init__(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._file: TextIO = (Path(folder) / FILE).open("w", encoding="utf-8")
        self._names: tuple[str, ...] = ()
        self._line({"kind": "whydiff steps", "schema": SCHEMA})

    def add(self, step: StepRecord) -> None:
        """Write a step; it is safe from then on whatever becomes of the process."""
        fields = {name: getattr(step, name) for name in StepRecord.__slots__}
        if step.names == self._names:
            del fields["names"]
        self._names = step.names
        fields["sample"], fields["slopes"] = _text(step.sample), _text(step.slopes)
        self._line(fields)

    def close(self, *, complete: bool) -> None:
        """Write that the program ended."""
        self._line({"complete": complete})
        self._file.close()

    def _line(self, fields: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(fields) + "\n")
        self._file.flush()


def read_steps(folder: str | Path) -> StepLog:
    """Open a log, as far as it was written.

    Raises:
        TraceFormatError: it is none.
    """
    path = Path(folder) / FILE
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        header = json.loads(lines[0])
    except (OSError, ValueError) as error:
        raise TraceFormatError("This is no log of steps.", where=str(folder), actual=str(error)) from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise TraceFormatError("This log of steps has another format.", where=str(folder), actual=lines[0][:80])
    steps: list[StepRecord] = []
    complete, names = False, ()
    for line in lines[1:]:
        try:
            fields = json.loads(line)
        except ValueError:  # the line at which the process died
            break
        if "complete" in fields:
            complete = bool(fields["complete"])
            break
        names = fields.get("names", names)
        steps.append(_record(fields | {"names": names}, str(folder)))
    return StepLog(tuple(steps), complete, str(folder))


def _record(fields: dict[str, Any], where: str) -> StepRecord:
    try:
        for name in ("names", "weights", "gradients", "trained", "losses"):
            fields[name] = tuple(fields[name])
        fields["sample"], fields["slopes"] = (_array(fields[name]) for name in ("sample", "slopes"))
        settings = fields["settings"].items()
        fields["settings"] = {name: tuple(value) if isinstance(value, list) else value for name, value in settings}
        return StepRecord(**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TraceFormatError(
            "A line of this log is not as whydiff writes it.", where=where, actual=str(error)
        ) from error


def _text(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def _array(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")


__all__ = ["FILE", "StepLog", "StepRecord", "StepWriter", "read_steps"]
