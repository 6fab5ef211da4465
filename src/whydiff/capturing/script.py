"""Run an unmodified Python script with a capture active: ``python -m whydiff.capturing.script``.

Arguments: OUT LEVEL PAYLOADS BYTES SCRIPT [ARG …], where PAYLOADS is ``all``, ``none`` or comma-separated globs, and
BYTES the budget for full tensors on disk. SCRIPT may be ``-m MODULE``. Of several ranks, each writes its own part of OUT.
The script sees its own ``sys.argv``, ``__main__`` and import path; its exit status becomes this process's.
One thing is other than without a capture: torch is imported before the script begins, so environment
variables that torch reads while it is imported (``OMP_NUM_THREADS``) have to be set outside the script.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import runpy
import shutil
import signal
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from whydiff import registry
from whydiff.capturing.ranks import part, started_again, told
from whydiff.capturing.record import STEP, capture
from whydiff.capturing.store.decode import unwrap
from whydiff.capturing.store.layout import INDEX
from whydiff.errors import UnsupportedError, WhydiffError
from whydiff.garbage import write_out

FRAMEWORK = "torch"
"""Whose ops are recorded wherever they run."""

_PARENT_DEATH_SIGNAL = 1
"""``PR_SET_PDEATHSIG`` of ``prctl``."""


def main(arguments: list[str]) -> int:
    """Capture a script; returns its exit status (2: the capture itself could not begin)."""
    out, level, payloads, room, script, *rest = arguments
    chosen = payloads if payloads in ("all", "none") else payloads.split(",")
    module = rest.pop(0) if script == "-m" else ""
    sys.argv = [module or script, *rest]
    sys.path[0] = os.getcwd() if module else str(Path(script).resolve().parent)
    _end_with(os.getppid())
    atexit.register(write_out)  # after the script's own: its globals are not this process's, which Python takes apart
    leaving: SystemExit | None = None
    left: dict[str, Any] = {}  # what the script made is there until the capture has looked at it once more
    raised: Exception | None = None
    try:
        with capture(out, payloads=chosen, level=level, max_bytes=int(room), overwrite=started_again()):
            try:
                if module:
                    left = runpy.run_module(module, run_name="__main__", alter_sys=True)
                else:
                    left = runpy.run_path(script, run_name="__main__")
            except SystemExit as error:
                leaving = error
            except Exception as error:
                raised = error
                raise
    except Exception as error:
        if error is not raised:  # the capture's own
            if not isinstance(error, WhydiffError):
                raise
            print(error, file=sys.stderr)
            return 2
        traceback.print_exception(type(error), error, _own_frames(error, script))
        return 1
    left.clear()
    code, out = _status(leaving), str(part(out, told()))
    if code == 0 and level != STEP and Path(out, INDEX).is_file() and not _any_call(Path(out, INDEX)):
        if unseen := _unseen():
            shutil.rmtree(out)
            print(unseen, file=sys.stderr)
            return 2
        print("No operator ran: the script has to call the model, and this one recorded nothing.", file=sys.stderr)
    return code


def _any_call(index: Path) -> bool:
    with index.open("rb") as lines:
        return any(unwrap(line.rstrip(b"\n"))[0] == "call" for line in lines)


def _unseen() -> str:
    """What to say of a script of which nothing was recorded, if it ran another framework's programs; empty otherwise."""
    others = [name for name in registry.names("adapters") if name != FRAMEWORK and name in sys.modules]
    if not others:
        return ""
    error = UnsupportedError(
        "Nothing was recorded: a script is captured where PyTorch runs.",
        actual=f"it ran {' and '.join(others)}",
        expected="a program that is handed over",
        next_step=f"in the script: with whydiff.capture(path, framework={others[0]!r}) as session: "
        "session.run(program, *arguments); or compare functions: whydiff compare FILE.py:a FILE.py:b",
    )
    return str(error)


def _end_with(parent: int) -> None:
    """On Linux: be terminated when whydiff dies without having passed anything on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it died before this was asked for
            os.kill(os.getpid(), signal.SIGTERM)


def _own_frames(error: BaseException, script: str) -> types.TracebackType | None:
    """The traceback from the script's first frame on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != script:
        frames = frames.tb_next
    return frames or error.__traceback__


def _status(leaving: SystemExit | None) -> int:
    """What Python would exit with."""
    code = leaving.code if leaving is not None else None
    if code is None or isinstance(code, int):
        return int(code or 0)
    print(code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
