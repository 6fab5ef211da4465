"""A log of a training run: a line of JSON per step, written as the step ends, so that a killed run keeps what it had."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from whydiff.capturing.ranks import MOST, parts
from whydiff.capturing.store.layout import STEPS as FILE
from whydiff.capturing.store.layout import read_text_file
from whydiff.capturing.store.strict import cleaned
from whydiff.errors import TraceFormatError, one_line

SCHEMA = 1
Array = np.ndarray[Any, np.dtype[np.float32]]
_LASTING = ("names", "forms")
"""Fields that a line leaves out if they are as in the line before."""


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
        forms: dtype and sizes of what this process holds of each parameter and buffer, e.g. ``float32[4, 8]``.
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
    forms: tuple[str, ...] = ()

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
        ranks: how many processes ran the program together.
        note: with what it ended, if that is known and was not its end.
    """

    steps: tuple[StepRecord, ...]
    complete: bool
    source: str
    ranks: int = 1
    note: str = ""


class StepWriter:
    """Writes a log line by line.

    Args:
        folder: is made.
        ranks: how many processes run the program together.
    """

    def __init__(self, folder: str | Path, ranks: int = 1) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._file: TextIO = (Path(folder) / FILE).open("w", encoding="utf-8")
        self._known: dict[str, tuple[str, ...]] = {}
        self._full = ""
        self._process = os.getpid()
        self._line({"kind": "whydiff steps", "schema": SCHEMA, "ranks": ranks})

    def add(self, step: StepRecord) -> None:
        """Write a step; it is safe from then on whatever becomes of the process. A full disk ends the log, nothing else."""
        if self._full or self._forked:
            return
        fields = {name: getattr(step, name) for name in StepRecord.__slots__}
        for name in _LASTING:
            if fields[name] == self._known.get(name):
                del fields[name]
            else:
                self._known[name] = fields[name]
        fields["sample"], fields["slopes"] = _text(step.sample), _text(step.slopes)
        try:
            self._line(fields)
        except OSError as error:
            self._full = one_line(error)

    def close(self, *, complete: bool, note: str = "") -> None:
        """Write that the program ended, and with what if it is not complete."""
        if self._forked:
            return
        if not self._full:
            with suppress(OSError):
                self._line({"complete": complete} | ({"note": note} if note else {}))
        with suppress(OSError):  # what could not be written is tried again
            self._file.close()

    @property
    def _forked(self) -> bool:
        """Whether this is a child: the log is its parent's."""
        return os.getpid() != self._process

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
        if not path.is_file():  # nobody writes into a pipe that is waited for
            raise OSError("there is no such file")
        lines = read_text_file(path).decode("utf-8").split("\n")
        header = json.loads(lines[0])
    except (OSError, ValueError, RecursionError) as error:
        raise TraceFormatError("This is no log of steps.", where=str(folder), actual=str(error)) from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise TraceFormatError("This log of steps has another format.", where=str(folder), actual=lines[0][:80])
    steps: list[StepRecord] = []
    complete, note = False, ""
    lasting: dict[str, Any] = {"names": (), "forms": ()}
    for line in lines[1:]:
        try:
            fields = cleaned(json.loads(line))
        except (ValueError, RecursionError):  # the line at which the process died
            break
        if not isinstance(fields, dict):
            break
        if "complete" in fields:
            complete, note = bool(fields["complete"]), str(fields.get("note", ""))
            break
        lasting |= {name: fields[name] for name in _LASTING if name in fields}
        before = steps[-1].number if steps else -1
        steps.append(_record(fields | lasting, before, str(folder)))
    return StepLog(tuple(steps), complete, str(folder), _ranks(header), note)


def ranked(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds logs of steps of several ranks."""
    return any((folder / FILE).is_file() for folder in parts(path).values())


def _ranks(header: Mapping[str, Any]) -> int:
    found = header.get("ranks", 1)
    return found if type(found) is int and 0 < found < MOST else 1


def _record(fields: dict[str, Any], before: int, where: str) -> StepRecord:
    try:
        for name in (*_LASTING, "weights", "gradients", "trained", "losses"):
            if not isinstance(fields[name], (list, tuple)):
                raise TypeError(f"{name} is no list")
            fields[name] = tuple(fields[name])
        fields["sample"], fields["slopes"] = (_array(fields[name]) for name in ("sample", "slopes"))
        settings = fields["settings"].items()
        fields["settings"] = {name: tuple(value) if isinstance(value, list) else value for name, value in settings}
        return _checked(StepRecord(**fields), before)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TraceFormatError(
            "A line of this log is not as whydiff writes it.", where=where, actual=str(error)
        ) from error


_COUNTED = 1 << 63
"""Whole numbers from here on are none that a program counted or computed, and fit into no float or array."""


def _checked(step: StepRecord, before: int) -> StepRecord:
    """A step whose fields are of their types and fit each other, and that follows the one before.

    Raises:
        TypeError, ValueError, AttributeError: it is not.
    """
    if type(step.number) is not int or not before < step.number < _COUNTED:
        raise ValueError(f"step {step.number!r:.20} follows step {before}")
    digests = (*step.weights, *step.gradients, *step.state.values(), *step.random.values(), step.batch)
    if not all(isinstance(text, str) for text in (*step.names, *step.forms, *digests)):
        raise TypeError("a name, a form or a digest is no text")
    if not all(type(flag) is bool for flag in step.trained):
        raise TypeError("what says whether a parameter is trained is neither true nor false")
    numbers = (*step.losses, step.share, step.seconds)
    if not all(type(n) is float or (type(n) is int and abs(n) < _COUNTED) for n in numbers):
        raise TypeError("a loss, a share or a time is no number")
    for name in ("weights", "gradients", "trained", *(("forms",) if step.forms else ())):
        count = len(getattr(step, name))
        if count != len(step.names):
            raise ValueError(f"{count} {name} of {len(step.names)} names")
    return step


def _text(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def _array(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")


__all__ = ["FILE", "StepLog", "StepRecord", "StepWriter", "ranked", "read_steps"]
