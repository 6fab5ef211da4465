"""``python -m tests.scores.foreign --count 2000``: files of each foreign format, changed in their bytes.

Of Orbax's folders one file is changed, taken away, or put in another one's place.
Each is read as `whydiff artifacts` reads it (in a process within limits, here a fork). A read is right if it ends, in
content or in an error that says why; if what it says lies within the file; if no file was made; and if it held no more
memory than its limit. A library that dies is an error that is told, and is counted.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.scores import foreign_files as made
from tests.scores.changed_artifacts import bytes_changed

from whydiff.errors import one_line
from whydiff.studies.artifacts.content import Spool, forget_spooled
from whydiff.studies.artifacts.foreign import child
from whydiff.studies.artifacts.foreign.reading import FOREIGN, checked

KINDS = {**{suffix[1:]: known.module for suffix, known in FOREIGN.items()}, "orbax": "of_orbax"}
FILES = {
    "gguf": ["gguf"],
    "onnx": ["onnx"],
    "h5": ["h5"],
    "msgpack": ["msgpack"],
    "faiss": [f"faiss {kind}" for kind in made.FAISS],
    "orbax": ["orbax"],
}
LONGEST = 180
"""Seconds until a read that waits for something is ended."""


def write(folder: Path, name: str) -> Path:
    """A good file of a format; a process of its own writes it, because tensorstore lets none fork that has used it."""
    folder.mkdir()
    writer = multiprocessing.get_context("spawn").Process(target=_write, args=(folder, name))
    writer.start()
    writer.join()
    (path,) = folder.iterdir()
    return path


def _write(folder: Path, name: str) -> None:
    suffix, _, kind = name.partition(" ")
    path = folder / f"good.{suffix}"
    if kind:
        made.faiss(path, kind=kind)
    else:
        WRITERS[suffix](path)


WRITERS = {"gguf": made.gguf, "onnx": made.onnx, "h5": made.hdf5, "msgpack": made.msgpack, "orbax": made.orbax}


def changed(good: Path, path: Path, rng: random.Random) -> None:
    """A copy of a good file or folder, changed."""
    if good.is_file():
        path.write_bytes(bytes_changed(good.read_bytes(), rng))
        return
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(good, path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    one, other, what = rng.choice(files), rng.choice(files), rng.randrange(10)
    if what == 0:
        one.unlink()
    elif what == 1:
        shutil.copyfile(other, one) if other != one else one.write_bytes(b"")
    else:
        one.write_bytes(bytes_changed(one.read_bytes(), rng))


def files(path: Path) -> set[Path]:
    """Everything beside a file, and within a folder."""
    return set(path.parent.iterdir()) | set(path.rglob("*"))


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def tried(path: Path, module: str) -> tuple[str, str]:
    """(outcome, what is wrong) of reading one file."""
    numbers, document, told = Spool(), Spool(), Spool()
    before = files(path)
    pid = os.fork()
    if pid == 0:
        _read_apart(module, path, numbers, document, told)
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    wrong = []
    if files(path) != before:
        wrong.append("a file was made")
    if (peak := usage.ru_maxrss << 10) > ROOM + child.MEMORY + 4 * size(path):
        wrong.append(f"it held {peak >> 20} MiB")
    if code == -signal.SIGALRM:
        wrong.append("it did not end")
    outcome = "died" if code < 0 else "refused"
    if code == child.REFUSED and not told.path.read_bytes().strip():
        wrong.append("nothing is said of why")
    if code not in (0, child.REFUSED) and code > 0:
        wrong.append(f"exit status {code}: {told.path.read_bytes()[-300:]!r}")
    if code == 0:
        try:
            content = checked(document, numbers, path)
            outcome = "read"
            for stored in content.tensors.values():
                stored.source.line(0, min(stored.numbers, 1024))
        except (ValueError, KeyError, TypeError):
            outcome = "refused"
    forget_spooled()
    return outcome, "; ".join(wrong)


def _read_apart(module: str, path: Path, numbers: Spool, document: Spool, told: Spool) -> None:
    """What a forked process does; whatever is raised, its parent's folders are not left as its own."""
    signal.alarm(LONGEST)
    status = 1
    try:
        out = os.open(told.path, os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            child.carried_out(module, path, numbers.path, document.path)
            status = 0
        except BaseException as error:  # noqa: BLE001 - as the reader's own process does
            os.write(out, f"\n{one_line(error)}".encode("utf-8", "replace"))
            status = child.REFUSED
    finally:
        os._exit(status)


ROOM = 2 << 30
"""What the libraries themselves take before anything is read, JAX among them."""


def main() -> int:
    """Print the outcomes of each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--begin", type=int, default=0, help="the number of the first change")
    parser.add_argument("formats", nargs="*", default=list(FILES))
    given = parser.parse_args()
    bad = 0
    for name in given.formats:
        importlib.import_module(f"whydiff.studies.artifacts.foreign.{KINDS[name]}").prepare()
        with tempfile.TemporaryDirectory() as folder:
            good = [write(Path(folder) / str(number), kind) for number, kind in enumerate(FILES[name])]
            (Path(folder) / "changed").mkdir()
            path = Path(folder) / "changed" / f"x.{name}"
            outcomes: Counter[str] = Counter()
            for number in range(given.begin, given.count):
                changed(good[number % len(good)], path, random.Random(number))
                outcome, wrong = tried(path, KINDS[name])
                outcomes[outcome] += 1
                if wrong:
                    bad += 1
                    print(f"WRONG {name} {number}: {wrong}", flush=True)
                if number % 100 == 99:
                    print(f"{name}, {number + 1} of {given.count}: {dict(outcomes)}", flush=True)
        print(f"{name}: {dict(outcomes)}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
