"""Runs kinds of program plainly and under captures, and says what is not as it has to be.

Every kind has a process of its own, forked from this one after torch is imported.
"""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.process_state import of_python, of_torch
from tests.scores.zoo import libraries, plainly, processes, stateful, transforms
from tests.scores.zoo.kind import TABLE, Kind

import whydiff.capturing.adapters.torch.session
import whydiff.capturing.store
from whydiff import registry
from whydiff.capturing.steps import read_steps
from whydiff.capturing.store import open_trace
from whydiff.garbage import frozen

registry.get("adapters", "torch")  # once, before processes are forked
GROUPS = (plainly, transforms, stateful, libraries, processes)
STEP = ("step", "all")
WAYS = (*((level, payloads) for level in ("op", "module") for payloads in ("none", ("*0*",), "all")), STEP)
QUICK = (("op", "all"), ("module", "none"), STEP)
DEVICE = os.environ.get("ZOO_DEVICE", "")
"""Where the programs make their tensors, if not on the CPU; a kind that cannot run there alone is passed over."""
TOO_LONG = 120


def outcome(program: Callable[[], Any]) -> tuple[Any, ...]:
    """What a program gives back, raises and prints to standard error, in a form that compares."""
    torch.manual_seed(0)
    text = io.StringIO()
    with redirect_stderr(text):
        try:
            given: Any = ("returned", digest(program()))
        except Exception as error:  # noqa: BLE001 - it is compared
            given = ("raised", type(error).__name__, str(error))
    return (*given, text.getvalue())


def digest(value: Any) -> Any:
    """Plain data with every bit of a nested result."""
    if isinstance(value, torch.Tensor):
        bits = value.detach().resolve_conj().resolve_neg().contiguous()
        if bits.dtype is torch.bfloat16:
            bits = bits.view(torch.int16)
        bits = bits.cpu()
        return ("tensor", str(value.dtype), tuple(value.shape), value.requires_grad, bits.numpy().tobytes())
    if isinstance(value, np.ndarray):
        return ("array", str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {repr(key): digest(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [digest(item) for item in value]
    return (type(value).__name__, re.sub(r"___torch_mangle_\d+\.?| at 0x[0-9a-f]+", "", repr(value)))


def state() -> dict[str, Any]:
    """What a capture must leave as it was."""
    return {
        **{name: value for name, value in of_python().items() if name not in ("variables", "numpy random")},
        **{name: value for name, value in of_torch().items() if name != "random"},
        "module call": torch.nn.Module.__call__,
        "thread start": threading.Thread.start,
        "frozen": frozen(),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


def findings(kind: Kind, ways: Any = WAYS) -> Iterator[str]:
    """What is wrong with captures of one kind; nothing if all is well."""
    if DEVICE:
        torch.set_default_device(DEVICE)
    outcome(kind.program)  # what is said and imported once only
    alone = [outcome(kind.program) for _ in range(2)]
    if alone[0] != alone[1]:
        yield f"the program differs from itself: {told(*alone)}"
        return
    if (alone[0][1] if alone[0][0] == "raised" else "") != kind.ends and not DEVICE:
        yield f"alone it ends with {alone[0][:3]}"
        return
    for level, payloads in ways:
        way = f"{level}, {payloads if isinstance(payloads, str) else 'globs'}"
        with tempfile.TemporaryDirectory() as folder:
            before, path = state(), Path(folder) / "a.trace"

            def inside(path: Path = path, level: str = level, payloads: Any = payloads) -> Any:
                with whydiff.capture(path, level=level, payloads=payloads):
                    return kind.program()

            found = outcome(inside)
            after = state()
            if found != alone[0]:
                yield f"{way}: not as alone: {told(alone[0], found)}"
            for name, value in before.items():
                if after[name] != value:
                    yield f"{way}: {name} was {value!r:.80}, is {after[name]!r:.80}"
            if level == "step":
                yield from (f"{way}: {wrong}" for wrong in logged(kind, path))
                continue
            try:
                trace = open_trace(path)
            except whydiff.WhydiffError as error:
                yield f"{way}: the trace does not open: {error}"
                continue
            counted = {hole.kind for hole in trace.holes}
            expected = kind.op if level == "op" else kind.module
            if counted != expected and not DEVICE:
                told_holes = [(h.kind, h.where, h.why[:300], h.count) for h in trace.holes]
                yield f"{way}: holes are {told_holes}, expected {sorted(expected)}"
            if trace.complete != kind.complete(level) and not DEVICE:
                yield f"{way}: complete is {trace.complete}: {trace.note}"
            failed = [hole for hole in trace.holes if hole.kind == "failed"]
            if failed:
                yield f"{way}: whydiff failed: {[(h.where, h.why, h.count) for h in failed]}"
            if (
                not DEVICE
                and level == "op"
                and kind.sees
                and not any(call.site.op == kind.sees for call in trace.calls)
            ):
                yield f"{way}: saw no {kind.sees}, but {sorted({call.site.op for call in trace.calls})}"


def logged(kind: Kind, path: Path) -> Iterator[str]:
    """What is wrong with a log of steps."""
    try:
        log = read_steps(path)
    except whydiff.WhydiffError as error:
        yield f"the log does not open: {error}"
        return
    if log.complete == bool(kind.ends) and not DEVICE:
        yield f"complete is {log.complete}: {log.note}"
    if kind.steps is not None and len(log.steps) != kind.steps and not DEVICE:
        yield f"{len(log.steps)} steps are logged, expected {kind.steps}"


def told(first: Any, second: Any) -> str:
    """Where two outcomes part."""
    if isinstance(first, (tuple, list)) and isinstance(second, (tuple, list)) and len(first) == len(second):
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            if one != other:
                return f"[{number}]{told(one, other)}"
    return f" {first!r:.200} / {second!r:.600}"


def able(kind: Kind) -> bool:
    """Whether everything that it needs is installed."""
    return all(importlib.util.find_spec(package) is not None for package in kind.needs)


def apart(kind: Kind, ways: Any = WAYS) -> list[str]:
    """`findings` in a forked process, which may die or hang."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            found = list(findings(kind, ways))
        except BaseException as error:  # noqa: BLE001 - it is reported
            found = [f"the zoo itself: {type(error).__name__}: {error}"]
        with os.fdopen(write, "wb") as pipe:
            pipe.write(pickle.dumps(found))
        os._exit(0)
    os.close(write)
    return _answer(child, read)


def _answer(child: int, read: int) -> list[str]:
    timer = threading.Timer(TOO_LONG, lambda: os.kill(child, signal.SIGKILL))
    timer.start()
    try:
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read()
    finally:
        timer.cancel()
        timer.join()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return pickle.loads(data) if data else [f"it died with status {status}"]


def score(names: list[str], ways: Any = WAYS, show: Callable[[str], None] = print) -> int:
    """Run kinds and print what is wrong; returns how many are not as they have to be."""
    bad = 0
    chosen = [kind for name, kind in TABLE.items() if not names or name in names]
    for kind in chosen:
        if not able(kind):
            show(f"-    {kind.name}: {', '.join(kind.needs)} not installed")
            continue
        began = time.perf_counter()
        found = apart(kind, ways)
        bad += bool(found)
        sys.stdout.flush()
        show(f"{'BAD ' if found else 'ok  '} {kind.name} ({time.perf_counter() - began:.1f} s)")
        for line in found:
            show(f"       {line}")
    show(f"{len(chosen) - bad} of {len(chosen)} kinds are as they have to be")
    return bad
