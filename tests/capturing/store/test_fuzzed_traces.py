"""A captured trace, changed at random: it opens, or a WhydiffError says why; nothing else happens."""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
import sys
import tempfile
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sealed import parts, seal

import whydiff
from whydiff.errors import WhydiffError
from whydiff.report.json import encode

MEMORY = 64 << 20
"""Bytes that opening a trace of some kilobytes may take."""
WRITING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}
RUNNING = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class"}
quick = settings(max_examples=150)

_watched: list[tuple[Path, list[str]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    root, seen = _watched[-1]
    if event in WRITING or event in RUNNING:
        seen.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        name, flags = os.fsdecode(arguments[0]), arguments[2]
        wanted = Path(os.path.realpath(name)).is_relative_to(root) or name.endswith((".py", ".pyc"))
        if not wanted or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            seen.append(f"open {name} {flags:o}")


@functools.cache
def _watch() -> None:
    sys.addaudithook(_hook)  # for the life of the process; idle unless a test asks


@contextmanager
def only_reads(root: Path) -> Iterator[None]:
    """Nothing is written, nothing is run, and nothing outside a folder is read."""
    _watch()
    seen: list[str] = []
    _watched.append((root.resolve(), seen))
    try:
        yield
    finally:
        _watched.pop()
    assert not seen


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captured") / "small.trace"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2).bfloat16().float())
    with whydiff.capture(path, payloads="all"):
        model(torch.ones(2, 3))
    exercise(path)  # everything that is loaded late is loaded now
    assert len(list(path.iterdir())) == 3
    return path


def exercise(root: Path) -> None:
    trace = whydiff.open(root)
    for key in trace.payloads:
        payload = trace.payload(key)
        assert payload is not None and payload.bits.tobytes() is not None
    json.dumps(encode([trace.calls, trace.leaves, trace.contexts, trace.scalars, trace.config]))


def judge(root: Path) -> None:
    """Opening and reading a trace works, or raises a WhydiffError that names the place."""
    tracemalloc.start()
    try:
        with only_reads(root):
            exercise(root)
    except WhydiffError as error:
        assert error.what and str(root) in str(error)
        str(error).encode("utf-8", "backslashreplace")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY


@contextmanager
def copied(captured: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(captured, Path(folder) / "t"))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything below a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield (*path, key)
        yield from places(item, (*path, key))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


hostile: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        ["", "/etc/passwd", "../../../etc/passwd", "..", "a/../../b", "C:\\x", "file:///etc/passwd", "\x00", "\ud800"]
    ),
    st.sampled_from(["﷽" * 50, "\u202e\x1b[2J", "é" * 2000, "__import__('os').system('x')", "builtins.eval", "NaN"]),
    st.sampled_from([-1, 0, 1, 2**31, 2**62, 2**63 - 1, 2**63, 2**64, 10**400, -(2**63), 1e308, -0.0, 0.5]),
    st.sampled_from([None, True, False, [], {}, [[]], {"": None}, [2**40, 2**40], [0, 2**62], [1] * 33]),
    st.sampled_from([{"$read": 0}, {"$float": "nan"}, {"$tuple": []}, {"$dict": [[[], 1]]}, {"$complex": [1.0, 2.0]}]),
    st.integers(1, 300).map(nested),
)


@given(data=st.data())
@quick
def test_values_of_the_records_are_swapped(captured: Path, data: st.DataObject) -> None:
    with copied(captured) as root:
        document: list[Any] = list(parts(root))
        found = list(places(document))
        for _ in range(data.draw(st.integers(1, 3))):
            path = data.draw(st.sampled_from(found))
            other = st.sampled_from(found).map(lambda place: copy.deepcopy(at(document, place)))
            try:
                holder = at(document, path[:-1])
                holder[path[-1]] = data.draw(hostile | other)
            except (LookupError, TypeError):
                continue  # an earlier change took this place away
        if isinstance(document[0], dict) and isinstance(document[1], list):
            seal(root, document[0], document[1])
        judge(root)


@given(
    name=st.sampled_from(["manifest.json", "events.jsonl", "payloads-00000.safetensors"]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=8),
    keep=st.floats(0, 1) | st.just(1.0),
    sealed=st.booleans(),
)
@quick
def test_bits_are_flipped_and_files_cut(
    captured: Path, name: str, flips: list[tuple[float, int]], keep: float, sealed: bool
) -> None:
    with copied(captured) as root:
        raw = bytearray((root / name).read_bytes())
        for where, bit in flips:
            raw[int(where * len(raw))] ^= 1 << bit
        raw = raw[: int(keep * len(raw))]
        (root / name).write_bytes(raw)
        if sealed and name.startswith("payloads"):  # the index believes the shard
            manifest, rows = parts(root)
            shard = next(row for row in rows if row[0] == "shard")
            head = 8 + int.from_bytes(raw[:8], "little")
            shard[2:] = [len(raw), zlib.crc32(raw[:head])]
            seal(root, manifest, rows)
        judge(root)


@given(data=st.data())
@quick
def test_the_shards_header_lies(captured: Path, data: st.DataObject) -> None:
    with copied(captured) as root:
        shard = root / "payloads-00000.safetensors"
        raw = shard.read_bytes()
        length = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:length])
        path = data.draw(st.sampled_from(list(places(header))))
        at(header, path[:-1])[path[-1]] = data.draw(hostile)
        text = json.dumps(header).encode()
        head = len(text).to_bytes(8, "little") + text
        shard.write_bytes(head + raw[length:])
        manifest, rows = parts(root)
        next(row for row in rows if row[0] == "shard")[2:] = [shard.stat().st_size, zlib.crc32(head)]
        seal(root, manifest, rows)
        judge(root)


@pytest.mark.parametrize("name", ["manifest.json", "events.jsonl", "payloads-00000.safetensors"])
@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "/dev/zero", "/proc/self/environ", ".", "missing"])
def test_files_are_links_to_elsewhere(captured: Path, name: str, target: str) -> None:
    with copied(captured) as root:
        (root.parent / "outside").write_bytes((root / name).read_bytes())
        (root / name).unlink()
        (root / name).symlink_to(target)
        with only_reads(root), pytest.raises(WhydiffError):
            exercise(root)


def test_the_watch_notices_what_it_should(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "x").write_text("")
    for act in (
        lambda: (tmp_path / "x").read_bytes(),
        lambda: (tmp_path / "in" / "x").write_bytes(b""),
        lambda: (tmp_path / "in" / "y").mkdir(),
    ):
        with pytest.raises(AssertionError), only_reads(tmp_path / "in"):
            act()
