"""``whydiff capture``: run a script unmodified in a child process that records it."""

from __future__ import annotations

import json as jsons
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import whydiff
from whydiff.capturing.ranks import part, told
from whydiff.cli._guard import guard
from whydiff.cli._options import CaptureLevel, Json, Quiet, Traceback
from whydiff.cli._values import size_in_bytes
from whydiff.errors import CaptureError, UsageError

CHILD = "whydiff.capturing.script"
"""Module that records: its arguments are OUT LEVEL PAYLOADS BYTES SCRIPT [ARGS…]."""
LAUNCHER = "whydiff.capturing.adapters.torch.launcher"
"""Module that launches what torchrun would launch, recorded: OUT LEVEL PAYLOADS BYTES, then torchrun's arguments."""
_LAUNCHERS = ("torch.distributed.run", "torch.distributed.launch")


@guard
def capture(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="After --: python SCRIPT.py [ARGS]..., or torchrun.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="TRACE", help="Folder to make.")],
    level: Annotated[
        CaptureLevel,
        typer.Option(
            "--level",
            help="Record every operator, modules only, or digests of each training step: cheap enough to stay on.",
        ),
    ] = CaptureLevel.OP,
    payloads: Annotated[
        list[str] | None,
        typer.Option(
            "--payloads",
            metavar="all|none|GLOB",
            help="Full tensors to keep: all (the default), none, or those whose site matches; repeatable.",
        ),
    ] = None,
    max_bytes: Annotated[
        str,
        typer.Option("--max-bytes", metavar="SIZE", help="Most full tensors on disk; never over half of what is free."),
    ] = "8GiB",
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Run a Python script and record a trace of it.

    The script runs in the interpreter that is named after --, with its own packages; whydiff is lent to it.
    Exit status: the script's own; 2 if it could not be run or left no trace.
    """
    words = parse(command)
    mine = Path(part(output, told()))
    if mine.exists() and (not mine.is_dir() or any(mine.iterdir())):
        raise UsageError(
            "The trace would overwrite something.",
            where=output,
            actual="it exists and is not an empty folder",
            expected="a new name",
        )
    room = str(size_in_bytes(max_bytes))
    arguments = [output, level.value, ",".join(payloads or ["all"]), room, *words.script]
    code = run([words.interpreter, *words.options, "-m", words.child or CHILD, *arguments], to_stderr=json)
    if not Path(output).exists():
        if code:
            typer.echo(f"The script ended with status {code} and left no trace.", err=True)
            raise typer.Exit(code)
        raise CaptureError(
            "The script ended well but left no trace.",
            where=output,
            next_step="Check that it ran a model in this process.",
        )
    if code:
        typer.echo(f"The script failed with status {code}. What it did until then can be read in {output}.", err=True)
    elif not quiet and not json:
        typer.echo(f"Trace written to {output}.", err=True)
    if json:
        done = {"trace": output, "status": code, "level": level.value, "payloads": payloads or ["all"]}
        typer.echo(jsons.dumps({**done, "command": command}, indent=2, ensure_ascii=False))
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class Words:
    """A command line: the interpreter's path, its options, the script with its arguments, and who runs it (else `CHILD`)."""

    interpreter: str
    options: tuple[str, ...]
    script: tuple[str, ...]
    child: str = ""


def parse(command: Sequence[str]) -> Words:
    """Take ``python [OPTIONS] SCRIPT.py [ARGS…]`` apart; a script alone runs in this interpreter.

    Raises:
        UsageError: no such interpreter or script, or something else than a script is to be run.
    """
    first, *rest = command
    if Path(first).name == "torchrun":
        return Words(_interpreter_of(shutil.which(first) or ""), (), tuple(rest), LAUNCHER)
    if first.endswith(".py"):
        interpreter, rest = sys.executable, [first, *rest]
    else:
        interpreter = shutil.which(first) or ""
    if not interpreter:
        raise UsageError("There is no such interpreter.", actual=first, expected="python, or the path of one")
    options: list[str] = []
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "-m" and rest and rest[0] in _LAUNCHERS:
            return Words(interpreter, tuple(options), tuple(rest[1:]), LAUNCHER)
        if option in ("-m", "-c", "-"):
            raise UsageError(
                "Only a script can be captured from the command line.",
                actual=f"{first} {option}",
                expected="python SCRIPT.py [ARGS]",
                next_step='In a module, use: with whydiff.capture("a.trace"): …',
            )
        options.append(option)
        if option in ("-W", "-X") and rest:
            options.append(rest.pop(0))
    if not rest or not Path(rest[0]).is_file():
        raise UsageError(
            "There is no such script.",
            actual=rest[0] if rest else "nothing after the interpreter",
            expected="python SCRIPT.py [ARGS]",
        )
    return Words(interpreter, tuple(options), tuple(rest))


def _interpreter_of(script: str) -> str:
    """The interpreter that an installed command begins with.

    Raises:
        UsageError: there is no such command, or it does not begin with an interpreter.
    """
    line = Path(script).read_bytes().split(b"\n", 1)[0].decode("utf-8", "replace") if script else ""
    words = line.removeprefix("#!").split()
    found = shutil.which(words[-1]) if line.startswith("#!") and words else None
    if not found:
        raise UsageError(
            "The interpreter of this command is not known.",
            actual=script or "there is no torchrun",
            expected="python -m torch.distributed.run [ARGS]",
        )
    return found


def run(command: Sequence[str], to_stderr: bool) -> int:
    """Run the child with whydiff on its import path, and nothing else of this interpreter's packages.

    Args:
        command: the whole command line.
        to_stderr: send its standard output to standard error.

    Returns:
        its exit status; 128 + the signal's number if a signal ended it, as shells do.
    """
    with tempfile.TemporaryDirectory(prefix="whydiff-") as folder:
        _lend(Path(folder))
        path = os.pathsep.join(p for p in (folder, os.environ.get("PYTHONPATH", "")) if p)
        sys.stdout.flush()
        try:
            child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=2 if to_stderr else None)
        except OSError as error:
            raise UsageError("The interpreter cannot be run.", where=command[0], actual=str(error)) from error
        with _passing_on(child):
            status = child.wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _passing_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Signals are the script's: it decides what an interrupt or a termination means; whydiff waits for it.

    A terminal sends an interrupt to both; from anywhere else it is passed on.
    """

    def pass_on(number: int, frame: object) -> None:
        if number != signal.SIGINT or not sys.stdin or not sys.stdin.isatty():
            child.send_signal(number)

    if threading.current_thread() is not threading.main_thread():  # signals are not ours to take
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    before = {number: signal.signal(number, pass_on) for name in names if (number := getattr(signal, name, None))}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lend(folder: Path) -> None:
    """Put this whydiff, alone, into a folder: the packages beside it belong to another interpreter."""
    package = Path(whydiff.__file__).parent
    try:
        (folder / "whydiff").symlink_to(package, target_is_directory=True)
    except OSError:  # links need a privilege on some systems
        shutil.copytree(package, folder / "whydiff", ignore=shutil.ignore_patterns("__pycache__"))
