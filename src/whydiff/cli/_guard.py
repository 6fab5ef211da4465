"""What every command does around its work: errors become a message and a status, never a bare traceback."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import traceback as tracebacks
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ParamSpec

import typer

from whydiff.errors import INTERRUPTED, MissingPackageError, WhydiffError, harmless

ERROR = 2
"""Exit status of a usage or input error and of a failure of whydiff itself; 1 would mean 'differs'."""

P = ParamSpec("P")


def guard(command: Callable[P, None]) -> Callable[P, None]:
    """Run a command; its option ``traceback`` decides how much of an error is shown."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        pressed = threading.Event()
        try:
            with _ended_as_interrupted(pressed):
                try:
                    command(*args, **kwargs)
                except Exception as error:
                    if pressed.is_set() and not isinstance(error, (typer.Exit, typer.Abort)):
                        raise KeyboardInterrupt from error  # it fell into an import, which left half a module
                    raise
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except WhydiffError as error:
            _show(str(error), kwargs.get("traceback") is True)
            raise typer.Exit(ERROR) from error
        except ModuleNotFoundError as error:
            _show(str(MissingPackageError.of(error)), kwargs.get("traceback") is True)
            raise typer.Exit(ERROR) from error
        except Exception as error:
            _show(
                f"whydiff itself failed; this is not a finding about your model.\n"
                f"  actual: {type(error).__name__}: {error}\n"
                f"  next: run it again with --traceback and report what it shows.",
                kwargs.get("traceback") is True,
            )
            raise typer.Exit(ERROR) from error

    return guarded


def _show(message: str, traceback: bool) -> None:
    if traceback:
        typer.echo(harmless(tracebacks.format_exc()), err=True)
    typer.echo(f"error: {harmless(message)}", err=True)


@contextlib.contextmanager
def _ended_as_interrupted(pressed: threading.Event) -> Iterator[None]:
    """SIGTERM stops a command as Ctrl-C does: its processes are ended, and what was found so far is told.

    Args:
        pressed: set when either comes.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are not ours to take
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        pressed.set()
        raise KeyboardInterrupt

    ours = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody has asked for something else
        ours.append(signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def user_code() -> Iterator[None]:
    """What the user's program prints goes to standard error: standard output holds the report alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
