"""Programs that would each need an interpreter of their own, as forks of one process that has imported PyTorch."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from whydiff.explain.causes._rank_runs import forks

SECONDS = 120
"""Most that a program may take on a slow machine."""


def ran(
    program: Callable[..., int | None], *args: Any, cwd: Path, environment: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    """Call a function of a module in a process of its own: nothing that this process did is there, apart from imports.

    What it returns is the exit status, as of `sys.exit`.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        child = forks().Process(target=_run, args=(program, args, cwd, {**os.environ, **(environment or {})}, out, err))
        child.start()
        child.join(SECONDS)
        if child.exitcode is None:
            child.kill()
            child.join()
        return CompletedProcess([], child.exitcode or 0, out.read_text(), err.read_text())


def _run(program: Callable[..., int | None], args: Any, cwd: Path, environment: Any, out: Path, err: Path) -> None:
    os.chdir(cwd)
    os.environ.clear()  # of whoever forked the first one
    os.environ.update(environment)
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    try:
        sys.exit(program(*args))
    finally:
        atexit._run_exitfuncs()  # as an interpreter does, and a fork does not


def executed(code: str, arguments: tuple[str, ...] = ()) -> None:
    """A program for `ran`: what `python -c CODE ARGUMENTS` does."""
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
