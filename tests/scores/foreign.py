"""``python -m tests.scores.foreign FORMAT … --count 2000``: files of each format, changed in their bytes.

Of archives (npz, pt) the members are changed too, with right checksums, and the pickle in them; of Orbax's folders one file
is changed, taken away, or put in another one's place. Each is read as `whydiff artifacts` reads it, in a process of its own
(here a fork). A read is right if it ends, in content or in an error that says why; if what it says lies within the file; if
no file was made; if nothing was asked for that runs code (another process, a connection, a class by its name in a pickle);
and if it held no more memory than its limit. A library that dies in its own process is an error that is told, and is
counted; what is read in the user's process may not die.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.scores.changed_artifacts import bytes_changed, file_changed
from tests.scores.foreign_files import FORMATS

from whydiff.errors import WhydiffError, one_line
from whydiff.studies.artifacts.content import Content, Spool, forget_spooled
from whydiff.studies.artifacts.foreign import child
from whydiff.studies.artifacts.foreign.reading import FOREIGN, checked
from whydiff.studies.artifacts.readers import reader_for

APART = {**{suffix[1:]: known.module for suffix, known in FOREIGN.items()}, "orbax": "of_orbax"}
"""Format → module that reads it in a process of its own; every other format is read in the user's."""
LONGEST = 180
"""Seconds until a read that waits for something is ended."""
RAN = 9
"""Exit status of a read that asked for something that runs code."""
RUNS = frozenset(
    {
        *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen"),
        *("socket.connect", "socket.bind", "pickle.find_class"),
    }
)
"""Events that CPython reports before it does what they say."""


def changed(good: Path, path: Path, rng: random.Random) -> None:
    """A copy of a good file or folder, changed."""
    if good.is_file():
        path.write_bytes(file_changed(good.read_bytes(), rng, pickled=good.suffix == ".pt")[1])
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


def loaded() -> int:
    """Bytes of this process, which a fork begins with."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def looked_into(content: Content) -> None:
    """Read some numbers of every tensor."""
    for stored in content.tensors.values():
        stored.source.line(0, min(stored.numbers, 1024))


def tried(path: Path, module: str | None) -> tuple[str, str]:
    """(outcome, what is wrong) of reading one file; without a module it is read as in the user's process."""
    numbers, document, told = Spool(), Spool(), Spool()
    before, most = files(path), loaded() + child.MEMORY + 4 * size(path)
    pid = os.fork()
    if pid == 0:
        _read_apart(module, path, numbers, document, told)
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    said = told.path.read_bytes()
    wrong = []
    if files(path) != before:
        wrong.append("a file was made")
    if (peak := usage.ru_maxrss << 10) > most:
        wrong.append(f"it held {peak >> 20} MiB")
    if code == -signal.SIGALRM:
        wrong.append("it did not end")
    elif code < 0 and module is None:
        wrong.append(f"the user's process would have ended with {signal.Signals(-code).name}")
    outcome = "died" if code < 0 else "refused"
    if code == child.REFUSED and not said.strip():
        wrong.append("nothing is said of why")
    if code == RAN:
        wrong.append(f"it asked for {said[-300:]!r}")
    elif code not in (0, child.REFUSED) and code > 0:
        wrong.append(f"exit status {code}: {said[-300:]!r}")
    if code == 0:
        outcome = "read"
        try:
            if module is not None:
                looked_into(checked(document, numbers, path))
        except (ValueError, KeyError, TypeError):
            outcome = "refused"
    forget_spooled()
    return outcome, "; ".join(wrong)


def _read_apart(module: str | None, path: Path, numbers: Spool, document: Spool, told: Spool) -> None:
    """What a forked process does; whatever is raised, its parent's folders are not left as its own."""
    signal.alarm(LONGEST)
    status = 1
    try:
        out = os.open(told.path, os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)

        def heard(event: str, given: tuple[Any, ...]) -> None:
            if event in RUNS:
                os.write(out, f"\n{event} {given!r}"[:300].encode("utf-8", "replace"))
                os._exit(RAN)

        sys.addaudithook(heard)
        try:
            if module is not None:
                child.carried_out(module, path, numbers.path, document.path)
            else:
                reader = reader_for(path)
                assert reader is not None
                looked_into(reader(path))
            status = 0
        except BaseException as error:  # noqa: BLE001 - as the reader's own process does
            os.write(out, f"\n{one_line(error)}".encode("utf-8", "replace"))
            clear = module is not None or isinstance(error, WhydiffError)
            status = child.REFUSED if clear else 1
    finally:
        os._exit(status)


def begun(name: str, good: list[Path]) -> str | None:
    """Import what reads a format, so that no fork has to; the module that reads it apart."""
    module = APART.get(name)
    if module is not None:
        child.reader_of(module)
        return module
    for path in good:
        reader = reader_for(path)
        assert reader is not None
        looked_into(reader(path))
    forget_spooled()
    return None


def main() -> int:
    """Print the outcomes of each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--begin", type=int, default=0, help="the number of the first change")
    parser.add_argument("formats", nargs="*", default=list(FORMATS))
    given = parser.parse_args()
    bad = 0
    for name in given.formats:
        with tempfile.TemporaryDirectory() as folder:
            (written := Path(folder) / "good").mkdir()
            subprocess.run([sys.executable, "-m", "tests.scores.foreign_files", name, written], check=True)
            good = [path / f"good.{name}" for path in sorted(written.iterdir())]
            (Path(folder) / "changed").mkdir()
            path = Path(folder) / "changed" / f"x.{name}"
            module = begun(name, good)
            gc.freeze()  # what is loaded is not looked through, and so not copied, in every fork
            outcomes: Counter[str] = Counter()
            for number in range(given.begin, given.count):
                changed(good[number % len(good)], path, random.Random(number))
                outcome, wrong = tried(path, module)
                outcomes[outcome] += 1
                if wrong:
                    bad += 1
                    print(f"WRONG {name} {number}: {wrong}", flush=True)
                if number % 500 == 499:
                    print(f"{name}, {number + 1} of {given.count}: {dict(outcomes)}", flush=True)
        print(f"{name}: {dict(outcomes)}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
