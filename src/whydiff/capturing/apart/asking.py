"""Start a process that replays, wait for what it finds, and end it where it takes too much."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whydiff.capturing.apart.beat import Beat

Told = Callable[[str, int, int], None]
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from whydiff.capturing.apart.child import main; main()"
)
_POLL = 0.1
_PATIENCE = 10.0
"""A process that gets so little of the processor that it used less of it than allowed may take so many times longer."""
_LONGEST = 1 << 28
"""Characters of one line of an answer."""
_GRACE = 10.0
"""Seconds that an interrupted one has to say what it knows."""
_START = 120.0
"""Seconds until it says that it begins."""


@dataclass(frozen=True, slots=True)
class Died:
    """The process ended, or was ended, before it answered.

    Attributes:
        how: in words: ``"signal 11 (SIGSEGV)"``.
        place: (side, call) that it was executing; None: it executed none.
        slow: it was ended because it took too long.
    """

    how: str
    place: tuple[int, int] | None
    slow: bool


def started() -> Any:
    """A new interpreter that waits for a request."""
    path = [os.path.abspath(entry) for entry in sys.path if entry]  # never the folder that happens to be current
    return subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", _BOOT, json.dumps(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def asked(
    request: Mapping[str, Any], progress: Told | None = None, start: Callable[[], Any] = started
) -> Mapping[str, Any] | Died:
    """Have a request carried out in a process of its own.

    Args:
        request: JSON-able; see `whydiff.capturing.apart.comparing`.
        progress: told of what the process tells.
        start: gives the process, with what `subprocess.Popen` has.

    Returns:
        Its answer, or how it died.

    Raises:
        KeyboardInterrupt: Ctrl-C here; what the process knew by then is in `Interrupted` if it could say it.
    """
    with tempfile.TemporaryDirectory(prefix="whydiff-apart-") as folder:
        place = Path(folder) / "beat"
        place.write_bytes(bytes(Beat.SIZE))
        beat = Beat(place)
        process = start()
        try:
            return _Watch(process, beat, progress).answer({**request, "beat": str(place)})
        finally:
            _end(process)
            beat.close()


def _end(process: Any) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


class _Watch:
    """One process: reads what it says, and ends it where it takes more than it may."""

    def __init__(self, process: Any, beat: Beat, progress: Told | None) -> None:
        self.process, self.beat, self.progress = process, beat, progress
        self.said: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.memory, self.seconds, self.call_seconds = 0, _START, _START
        self.begun = self.call_begun = (time.monotonic(), 0.0)
        self.count = 0

    def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any] | Died:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.close()
        except BrokenPipeError:
            return self.died()
        listener = threading.Thread(target=self._listen, name="whydiff-apart", daemon=True)
        listener.start()
        try:
            return self._answer()
        except KeyboardInterrupt:
            self.process.send_signal(signal.SIGINT)
            self.seconds = min(self.seconds, time.monotonic() - self.begun[0] + _GRACE)
            return self._answer()
        finally:
            if self.process.poll() is None:
                self.process.kill()
            listener.join()

    def _answer(self) -> Mapping[str, Any] | Died:
        while True:
            try:
                line = self.said.get(timeout=_POLL)
            except queue.Empty:
                if too_much := self._too_much():
                    self.process.kill()
                    return too_much
                continue
            try:
                told = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                told = None
            if not isinstance(told, dict):
                self.process.kill()
                return self.died()
            if "begins" in told:
                self.memory, self.seconds, self.call_seconds = told["begins"]
                self.begun = (time.monotonic(), _processor_seconds(self.process.pid))
            elif "progress" in told:
                if self.progress is not None:
                    self.progress(*told["progress"])
            else:
                return told

    def _listen(self) -> None:
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline(_LONGEST)
            self.said.put(line)
            if not line.endswith(b"\n"):
                return

    def _too_much(self) -> Died | None:
        now = (time.monotonic(), _processor_seconds(self.process.pid))
        count, place = self.beat.now()
        if count != self.count or place is None:
            self.count, self.call_begun = count, now
        if self.memory and (held := _memory(self.process.pid)) > self.memory:
            return Died(f"it held {held >> 20} MiB of memory", place, False)
        if _over(now, self.call_begun, self.call_seconds):
            return Died(f"it took longer than {self.call_seconds:.0f} s", place, True)
        if _over(now, self.begun, self.seconds):
            return Died(f"the comparison took longer than {self.seconds:.0f} s", None, True)
        return None

    def died(self) -> Died:
        """How it ended by itself."""
        code = self.process.wait()
        _, place = self.beat.now()
        if code >= 0:
            return Died(f"exit status {code}", place, False)
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return Died(f"signal {-code} ({name})", place, False)


def _over(now: tuple[float, float], begun: tuple[float, float], seconds: float) -> bool:
    """Whether so many seconds passed since, on the clock and of the processor (or far more on the clock alone)."""
    passed, used = now[0] - begun[0], now[1] - begun[1]
    return passed > seconds and (used > seconds or passed > _PATIENCE * seconds)


def _processor_seconds(pid: int) -> float:
    """Seconds of the processor that a process used; infinite where the system does not tell, so that the clock decides."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return float("inf")


def _memory(pid: int) -> int:
    """Bytes that a process holds; 0 where the system does not tell."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_bytes().split()
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
