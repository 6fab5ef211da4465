"""``python -m tests.scores.foreign --count 2000``: files of each foreign format, changed in their bytes.

Each is read as `whydiff artifacts` reads it (in a process within limits, here a fork). A read is right if it ends, in
content or in an error that says why; if what it says lies within the file; if no file was made; and if it held no more
memory than its limit. A library that dies is an error that is told, and is counted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.scores import foreign_files as made
from tests.scores.changed_artifacts import bytes_changed

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
}


def write(folder: Path, name: str) -> Path:
    """A good file of a format."""
    suffix, _, kind = name.partition(" ")
    path = folder / f"good.{suffix}"
    if kind:
        made.faiss(path, kind=kind)
    else:
        {"gguf": made.gguf, "onnx": made.onnx, "h5": made.hdf5, "msgpack": made.msgpack}[suffix](path)
    return path


def tried(path: Path, module: str) -> tuple[str, str]:
    """(outcome, what is wrong) of reading one file."""
    numbers, document, told = Spool(), Spool(), Spool()
    before = set(path.parent.iterdir())
    pid = os.fork()
    if pid == 0:
        out = os.open(told.path, os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            child.carried_out(module, path, numbers.path, document.path)
        except BaseException as error:  # noqa: BLE001 - as the reader's own process does
            os.write(out, f"\n{type(error).__name__}: {error}".encode("utf-8", "replace"))
            os._exit(child.REFUSED)
        os._exit(0)
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    wrong = []
    if set(path.parent.iterdir()) != before:
        wrong.append("a file was made")
    if (peak := usage.ru_maxrss << 10) > ROOM + child.MEMORY + 4 * path.stat().st_size:
        wrong.append(f"it held {peak >> 20} MiB")
    outcome = "died" if code < 0 else "refused"
    if code == child.REFUSED and not told.path.read_bytes().strip():
        wrong.append("nothing is said of why")
    if code not in (0, child.REFUSED) and code > 0:
        wrong.append(f"exit status {code}")
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


ROOM = 2 << 30
"""What the libraries themselves take before anything is read, JAX among them."""


def main() -> int:
    """Print the outcomes of each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("formats", nargs="*", default=list(FILES))
    given = parser.parse_args()
    bad = 0
    for name in given.formats:
        importlib.import_module(f"whydiff.studies.artifacts.foreign.{KINDS[name]}").prepare()
        with tempfile.TemporaryDirectory() as folder:
            good = [write(Path(folder), kind).read_bytes() for kind in FILES[name]]
            path = Path(folder) / f"x.{name}"
            outcomes: Counter[str] = Counter()
            for number in range(given.count):
                path.write_bytes(bytes_changed(good[number % len(good)], random.Random(number)))
                outcome, wrong = tried(path, KINDS[name])
                outcomes[outcome] += 1
                if wrong:
                    bad += 1
                    print(f"WRONG {name} {number}: {wrong}", flush=True)
        print(f"{name}: {dict(outcomes)}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
