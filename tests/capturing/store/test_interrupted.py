"""A capture that ends early: killed for real, by an exception, or cut at any byte."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from whydiff.capturing.store import TraceWriter, open_trace
from whydiff.errors import TraceFormatError
from whydiff.records import Call, Leaf, Payload

CHILD = """
import os, signal, sys
import numpy as np
from whydiff.records import Call, Environment, Payload, Site
from whydiff.capturing.store import TraceWriter
path, where = sys.argv[1:]
environment = Environment({"torch": "9"})
writer = TraceWriter(path, framework="torch", level="op", environment=environment, shard_bytes=4000)
for step in range(4):
    for part in range(2):
        calls = [
            Call(2000 * step + 1000 * part + i, Site("a", "mm", step=step), "aten.mm.default", "compute",
                 arguments=["x" * 1200]) for i in range(1000)
        ]
        writer.add_calls(calls)
        for i in range(3):
            writer.add_payload(f"{step}/{part}/{i}", Payload(np.full(400, step, np.float32), "float32"))
        if where == f"{step} {part}":
            os.kill(os.getpid(), signal.SIGKILL)
    writer.end_step()
    if where == f"{step} end":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize(("where", "steps"), [("0 0", 0), ("0 end", 1), ("2 0", 2), ("2 1", 2), ("2 end", 3)])
def test_a_killed_capture_opens_up_to_the_last_complete_step(where: str, steps: int, tmp_path: Path) -> None:
    path = tmp_path / "killed.trace"
    done = subprocess.run([sys.executable, "-c", CHILD, str(path), where], env=_environment(), check=False)
    assert done.returncode == -signal.SIGKILL
    trace = open_trace(path)
    assert not trace.complete
    assert f"killed during step {steps + 1}" in trace.note
    assert (f"opened up to step {steps} (last complete)" if steps else "no step was complete") in trace.note
    assert [call.index for call in trace.calls] == list(range(2000 * steps))
    assert trace.environment.versions == {"torch": "9"}
    assert len(trace.payloads) == 6 * steps
    for key in trace.payloads:
        payload = trace.payload(key)
        assert payload is not None and (payload.bits == int(key[0])).all()
    # In the middle of a step, more than the complete steps had reached the disk, and it is said how much.
    left_out = re.search(r"left out after it: (\d+) calls", trace.note)
    assert (left_out is not None and int(left_out[1]) > 0) == (not where.endswith("end"))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_an_exception_closes_the_trace_as_incomplete(tmp_path: Path, call: Callable[..., Call], leaf: Leaf) -> None:
    with pytest.raises(RuntimeError, match="out of luck"):
        _capture_that_fails(tmp_path, call, leaf)
    trace = open_trace(tmp_path)
    assert not trace.complete
    assert trace.note == "the capture ended with RuntimeError: out of luck"
    assert len(trace.calls) == 2  # what came before the exception is kept, complete step or not
    assert len(trace.leaves) == 1


def _capture_that_fails(path: Path, call: Callable[..., Call], leaf: Leaf) -> None:
    with TraceWriter(path, framework="torch", level="op") as writer:
        writer.add_leaves([leaf])
        writer.add_calls([call(0)])
        writer.end_step()
        writer.add_calls([call(1)])
        raise RuntimeError("out of luck")


def test_a_trace_cut_at_any_byte_of_its_index(steps: Callable[..., TraceWriter], tmp_path: Path) -> None:
    """Open (never closed): every cut opens, and only whole steps are there. Closed: every cut is an error."""
    steps(tmp_path / "open", 3, close=False)._index.close()
    steps(tmp_path / "closed", 3, close=True)
    whole = (tmp_path / "open" / "events.jsonl").read_bytes()
    ends = [i + 1 for i in range(len(whole)) if whole[i : i + 1] == b"\n" and b'["step"' in _line(whole, i)]
    assert len(ends) == 3
    for cut in range(len(whole) + 1):
        (tmp_path / "open" / "events.jsonl").write_bytes(whole[:cut])
        trace = open_trace(tmp_path / "open")
        complete = sum(end <= cut for end in ends)
        assert not trace.complete and len(trace.calls) == complete
        assert list(trace.payloads) == ["leaf", "kept/1", "kept/2"][:complete]
        assert ("one torn line" in trace.note) == (cut > 0 and whole[cut - 1 : cut] != b"\n")
    data = (tmp_path / "closed" / "events.jsonl").read_bytes()
    for cut in range(len(data)):
        (tmp_path / "closed" / "events.jsonl").write_bytes(data[:cut])
        with pytest.raises(TraceFormatError, match="does not have the size"):
            open_trace(tmp_path / "closed")


def _line(data: bytes, newline: int) -> bytes:
    return data[data.rfind(b"\n", 0, newline) + 1 : newline]


def test_damage_in_the_middle_is_an_error_also_if_the_trace_is_incomplete(
    steps: Callable[..., TraceWriter], tmp_path: Path
) -> None:
    steps(tmp_path / "t", 3, close=False)._index.close()
    index = tmp_path / "t" / "events.jsonl"
    lines = index.read_bytes().split(b"\n")
    lines[3] = lines[3][:-5]
    index.write_bytes(b"\n".join(lines))
    with pytest.raises(TraceFormatError, match=r"events\.jsonl, line 4"):
        open_trace(tmp_path / "t")


def test_a_shard_with_another_header_of_the_same_meaning_is_refused(saved: Path) -> None:
    shard = saved / "payloads-00000.safetensors"
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    swapped = json.dumps(dict(reversed(header.items())), separators=(",", ":")).encode().ljust(length)
    assert swapped != data[8 : 8 + length] and len(swapped) == length
    shard.write_bytes(data[:8] + swapped + data[8 + length :])
    with pytest.raises(TraceFormatError, match="not the one that was written"):
        open_trace(saved).payload("leaf")


@pytest.mark.parametrize("close", [True, False])
def test_a_changed_letter_in_the_index_is_found_and_its_line_is_named(
    steps: Callable[..., TraceWriter], tmp_path: Path, close: bool
) -> None:
    writer = steps(tmp_path / "t", 3, close=close)
    writer._index.close()
    index = tmp_path / "t" / "events.jsonl"
    lines = index.read_bytes().split(b"\n")
    number = next(i for i, line in enumerate(lines) if b"a.py:3" in line)
    lines[number] = lines[number].replace(b"a.py:3", b"a.py:4")
    index.write_bytes(b"\n".join(lines))
    with pytest.raises(TraceFormatError, match=rf"events\.jsonl, line {number + 1}\n[^$]*checksum"):
        open_trace(tmp_path / "t")


def test_killed_between_the_end_line_and_the_manifest(steps: Callable[..., TraceWriter], tmp_path: Path) -> None:
    writer = steps(tmp_path / "t", 2, close=False)
    before = (tmp_path / "t" / "manifest.json").read_bytes()
    writer.close()
    (tmp_path / "t" / "manifest.json").write_bytes(before)
    trace = open_trace(tmp_path / "t")
    assert not trace.complete and len(trace.calls) == 2 and "killed while closing" in trace.note


def test_what_an_interrupted_step_left_behind_is_ignored(
    steps: Callable[..., TraceWriter], payload: Payload, tmp_path: Path
) -> None:
    writer = steps(tmp_path / "t", 1, close=False)
    writer.add_payload("late", payload)
    writer._close_shard()
    writer._index.flush()
    (tmp_path / "t" / "payloads-00002.safetensors.tmp").write_bytes(b"half")
    trace = open_trace(tmp_path / "t")
    assert list(trace.payloads) == ["leaf"] and "1 payloads" in trace.note
    (tmp_path / "t" / "payloads-00001.safetensors").unlink()  # it belongs to no complete step
    assert list(open_trace(tmp_path / "t").payloads) == ["leaf"]
    (tmp_path / "t" / "payloads-00000.safetensors").unlink()
    with pytest.raises(TraceFormatError, match="missing"):
        open_trace(tmp_path / "t")


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 60, -13, -1])
def test_a_truncated_shard_is_found_on_opening(saved: Path, keep: int) -> None:
    shard = saved / "payloads-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(TraceFormatError, match="does not have the size"):
        open_trace(saved)


def test_every_bit_flip_in_a_shard_is_found(saved: Path, tmp_path: Path) -> None:
    good = (saved / "payloads-00000.safetensors").read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        (copy / "payloads-00000.safetensors").write_bytes(bad)
        trace = open_trace(copy)
        found = 0
        for key in trace.payloads:
            try:
                trace.payload(key)
            except TraceFormatError as error:
                assert str(copy) in str(error)
                if position >= header:
                    assert "was damaged" in str(error)
                elif position >= 8:
                    assert "not the one that was written" in str(error) or "safetensors" in str(error)
                found += 1
        assert found >= 1, f"a flipped bit at byte {position} went unnoticed"
