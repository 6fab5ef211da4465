"""From what a user names to a training program that can be run, or a log of one that was."""

from __future__ import annotations

import contextlib
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whydiff.capturing import targets
from whydiff.capturing.steps import FILE, StepLog, ranked, read_steps
from whydiff.errors import UsageError

Program = Callable[[], Any]


class Script:
    """An unmodified script with its arguments, run in this process as ``python SCRIPT.py ARGS`` would run it.

    Its standard output goes to standard error, where it does not mix with a report.

    Args:
        path: of the file.
        arguments: its ``sys.argv`` after the name.
    """

    def __init__(self, path: str, arguments: list[str]) -> None:
        self.path, self.arguments = str(Path(path).resolve()), arguments

    def __call__(self) -> None:
        """Run it to its end."""
        before, path = sys.argv, list(sys.path)
        sys.argv, sys.path[0:0] = [self.path, *self.arguments], [str(Path(self.path).parent)]
        try:
            with contextlib.redirect_stdout(sys.stderr):
                runpy.run_path(self.path, run_name="__main__")
        except SystemExit as leaving:
            if leaving.code not in (None, 0):
                raise RuntimeError(f"the script ended with status {leaving.code}") from leaving
        finally:
            sys.argv, sys.path[:] = before, path


def side(given: Any) -> Program | StepLog:
    """A callable as it is, ``"SCRIPT.py ARGS"``, ``"FILE.py:name"``, or the folder of a log of steps.

    Raises:
        UsageError: it is nothing of the kind.
        whydiff.errors.TargetError: the file has no such function.
    """
    if callable(given):
        return given  # type: ignore[no-any-return]
    text = str(given)
    if (Path(text) / FILE).is_file():
        return read_steps(text)
    if ranked(text):
        raise UsageError(
            "A log of several ranks is not one run's.",
            where=text,
            expected="the log of one rank",
            next_step=f"compare two ranks' logs, {text}/rank-00000 say, or check all of one run: whydiff ranks {text}",
        )
    words = shlex.split(text)
    if len(words) > 1 and Path(words[0]).name.startswith("python"):
        words = words[1:]
    if words and words[0].endswith(".py") and Path(words[0]).is_file():
        return Script(words[0], words[1:])
    loaded = targets.load(text)
    if not callable(loaded):
        raise UsageError(
            "This is no training program.",
            where=text,
            actual="a trace" if Path(text).is_dir() else "nothing that runs",
            expected='"SCRIPT.py ARGS", FILE.py:name, or a log of steps',
        )
    return loaded
