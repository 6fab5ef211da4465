"""What the process that replays does: bound itself, give up files, sockets and processes, carry one request out."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from whydiff import errors
from whydiff.capturing.apart.beat import Beat
from whydiff.capturing.apart.comparing import compare_apart
from whydiff.capturing.limits import Limits
from whydiff.records import wire

_COMPARES = ("whydiff.pipeline", "compare_opened")
"""Above this room, and therefore named: (two opened traces, options) → Diagnosis."""
_MAKES = (
    "os.mkdir os.rename os.remove os.rmdir os.symlink os.link os.truncate os.chmod os.chown os.system os.exec os.fork "
    "os.forkpty os.posix_spawn os.spawn os.startfile subprocess.Popen socket.connect socket.bind socket.sendto "
    "socket.__new__ shutil.rmtree webbrowser.open ftplib.connect urllib.Request"
)
_FORBIDDEN = frozenset(_MAKES.split())
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_PACKAGE = Path(__file__).parents[2]
_CACHING = frozenset({"open", "os.rename", "os.mkdir", "os.remove"})


def main() -> None:
    """Carry out the request on standard input; the answer goes to what standard output was."""
    request = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    _ends_with_its_parent()
    os.environ[_CACHE] = str(Path(request["beat"]).parent)  # made whenever the compiler is loaded, used or not

    def say(**told: Any) -> None:
        out.write(json.dumps(told) + "\n")
        out.flush()

    def begin(limits: Limits) -> Beat:
        beat = Beat(Path(request["beat"]))
        memory = _bound(limits.memory)
        _give_up()
        say(begins=[memory, limits.seconds, limits.call_seconds])
        return beat

    home, name = _COMPARES
    try:
        compare = getattr(importlib.import_module(home), name)
        say(done=wire.encode(compare_apart(request, lambda *told: say(progress=told), begin, compare)))
    except errors.Interrupted as stop:
        say(interrupted=wire.encode(stop.found))
    except errors.WhydiffError as error:
        texts = {key: vars(error)[key] for key in ("what", "where", "actual", "expected", "next_step")}
        say(error=[type(error).__name__, texts])
    except BaseException as error:  # noqa: BLE001 - whatever it was, the process that waits is told
        say(failed=errors.one_line(error), traceback=traceback.format_exc()[-4000:])
    out.close()
    os._exit(0)  # nothing is left to be tidied up, and nothing that a stranger's data broke gets a chance to run


def _bound(memory: int) -> int:
    """Let the process hold so many more bytes than now, and leave no core; how many that are in all."""
    held = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_bytes().split()
        held = (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        asked = _data() + memory + _STACKS
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if _data() and (hard == resource.RLIM_INFINITY or asked < hard):
            resource.setrlimit(resource.RLIMIT_DATA, (asked, hard))
    return held + memory if held else 0


_STACKS = (1 << 30) + (64 << 20) * (os.cpu_count() or 1)
"""Bytes that threads may take for their stacks: address space that is mostly never touched."""


def _data() -> int:
    """Bytes of private, writable address space of this process; 0 where the system does not tell."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
    return 0


def _give_up() -> None:
    """From here on Python opens no file for writing, no socket, and starts no process."""
    kernels = tuple(filter(None, (str(_PACKAGE), os.environ.get("NUMBA_CACHE_DIR"))))

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if not writes and event not in _FORBIDDEN:
            return
        name = str(arguments[0]) if arguments else ""
        if event in _CACHING and (name == os.devnull or (name.startswith(kernels) and ".." not in name)):
            return  # whydiff's own kernels, which numba compiles and keeps beside their source
        raise PermissionError(f"a replay does no such thing: {event} {name[:80]}")

    sys.addaudithook(refuse)


def _ends_with_its_parent() -> None:
    """Have the system end this process if the one that waits for it dies (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
