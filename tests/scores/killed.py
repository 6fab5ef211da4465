"""`python -m tests.scores.killed [COUNT [FIRST]]`: captures that are ended at random moments (300, about three minutes).

A training loop tells on a pipe which steps have ended. However it is ended, its trace has to open up to the last of
these and to say that it is not complete; who lives on has to find nothing of the capture in the process.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
import torch._dynamo
from tests.scores.zoo.models import mlp
from tests.scores.zoo.run import state

import whydiff
import whydiff.capturing.adapters.torch.session
from whydiff.capturing.store import open_trace

WAYS = ("SIGKILL", "SIGTERM", "SIGINT", "exit", "raised", "line", "caught line")
PAYLOADS: tuple[Any, ...] = ("none", ["*0*"], "all")
LONGEST = 0.5
"""Seconds after its first step at which a capture has ended."""
LOST = 20.0
"""Seconds after which an interrupt is sent again: Python drops one that falls into a finaliser."""


def steps(tell: Callable[[int], None], first: int = 0) -> None:
    """Train for ever; ``tell`` is called with the number of a step when it has ended."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number in range(first, 10**9):
        optimizer.zero_grad()
        model(torch.ones(2, 8)).square().mean().backward()
        optimizer.step()
        tell(number)


class Interrupts:
    """Raises KeyboardInterrupt at the n-th line that runs in whydiff's capturing rooms."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if "/whydiff/capturing/" not in frame.f_code.co_filename:
            return None
        return self.within

    def within(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.within


def child(path: Path, way: str, payloads: Any, level: str, seed: int, pipe: int) -> None:
    """One capture in a process of its own that ends itself."""
    chance, begun, noticed = random.Random(seed), threading.Event(), threading.Event()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    before = state()

    def tell(number: int) -> None:
        os.write(pipe, f"step {number}\n".encode())
        begun.set()
        if number == 0 and "line" in way:
            sys.settrace(Interrupts(chance.randrange(1, 6000)))

    def end() -> None:
        begun.wait()
        time.sleep(LOST if "line" in way else chance.uniform(0, LONGEST))
        if way == "exit":
            os._exit(5)
        elif way.startswith("SIG") and way != "SIGINT":
            os.kill(os.getpid(), getattr(signal, way))
        while not noticed.is_set():
            if way == "SIGINT":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                main = ctypes.c_ulong(threading.main_thread().ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(KeyboardInterrupt))
            noticed.wait(LOST)

    threading.Thread(target=end, daemon=True).start()
    try:
        with whydiff.capture(path, level=level, payloads=payloads):
            try:
                steps(tell)
            except KeyboardInterrupt:
                noticed.set()
                if way != "caught line":
                    raise
                os.write(pipe, b"caught\n")
    except KeyboardInterrupt:
        noticed.set()
        os.write(pipe, b"interrupted\n")
    sys.settrace(None)
    after = state()
    left = {name: repr(after[name]) for name in before if after[name] != before[name]}
    os.write(pipe, f"left {json.dumps(left)}\n".encode())


def ended(number: int, folder: Path) -> str:
    """What is wrong with the trace of one capture that was ended; empty if nothing is."""
    way, payloads = WAYS[number % len(WAYS)], PAYLOADS[number // len(WAYS) % len(PAYLOADS)]
    level = "module" if number % 4 == 3 else "op"
    path, (read, write) = folder / f"{number}.trace", os.pipe()
    process = os.fork()
    if process == 0:
        os.close(read)
        try:
            child(path, way, payloads, level, number, write)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        lines = pipe.read().decode().splitlines()
    os.waitpid(process, 0)
    name = f"{number}: {way}, {level}, payloads {payloads}"
    told = [line for line in lines if line.startswith("left ") and line != "left {}"]
    if told:
        return f"{name}: {told[0]}"
    finished = [int(line.split()[1]) for line in lines if line.startswith("step ")]
    if not finished:
        return f"{name}: it never began"
    wrong = opened(path, finished[-1], level, lives=way == "caught line")
    return f"{name}: {wrong}" if wrong else ""


def opened(path: Path, last: int, level: str, lives: bool) -> str:
    """What a trace lacks that must hold every step up to a given one."""
    try:
        trace = open_trace(path)
    except whydiff.WhydiffError as error:
        return f"does not open: {error}"
    counts = Counter(call.site.step for call in trace.calls)
    full = counts[1] if last else counts[0]
    if last and any(counts[step] != full for step in range(1, last)):
        return f"steps up to {last} ended, and there are {[counts[step] for step in range(last + 2)]} calls"
    # The last one may lack what comes between an update and the next step (the next batch is made there).
    updates = Counter(call.site.step for call in trace.calls if call.site.phase == "update")
    if not counts[last] or (last > 1 and updates[last] != updates[1]) or (level == "op" and not updates[last]):
        return f"step {last} ended and is not there: {counts[last]} calls, {updates[last]} of its update"
    if (trace.complete or not trace.note) and not lives:  # who caught it in time lost nothing
        return f"it calls itself complete: {trace.note!r}"
    for key in trace.payloads:
        trace.payload(key)
    return ""


def score(count: int, first: int = 0, show: Callable[[str], None] = print) -> int:
    """End captures and print what is wrong; returns how many."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            wrong = ended(number, Path(folder))
            if wrong:
                bad += 1
                show(wrong)
    show(f"{count - bad} of {count} traces open up to the last finished step, and nothing is left behind")
    return bad


if __name__ == "__main__":
    sys.exit(min(score(*map(int, sys.argv[1:] or ("300",))), 1))
