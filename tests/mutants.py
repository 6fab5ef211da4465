"""``python -m tests.mutants [--room ROOM …] [--jobs N] [--list]``: do the tests notice when one line is wrong?

Each mutant changes one line in a copy of the tree; the tests of its own room run on it. A mutant that no test notices
*survives*: what the line does is then tested nowhere near it. Not part of the test suite (each mutant runs a room's
tests again); the exit status is 1 if a mutant survives, and 2 if the list no longer fits the code.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from tests.mutations import MUTANTS, TESTS, Mutant

T = TypeVar("T")
_seconds = itertools.count(1_000_000_000)
ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests", "docs", "pyproject.toml", "README.md", "CONTRIBUTING.md")
SLOWEST = 600
"""Seconds after which a run of a room's tests is ended; a mutant that makes them hang is noticed."""


@dataclass(frozen=True)
class Result:
    """What a room's tests made of one mutant."""

    mutant: Mutant
    caught: bool
    seconds: float
    by: str


class Misfit(Exception):
    """A mutant, or a room's tests without any, are not as the list says."""


def mutated(mutant: Mutant, root: Path) -> str:
    """The text of the mutant's file with its one change.

    Raises:
        Misfit: the text is not there exactly once, or what comes out is no Python.
    """
    path = root / "src/whydiff" / mutant.file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = text.count(mutant.old)
    if found != 1 or mutant.old == mutant.new:
        raise Misfit(f"{mutant}: found {found} times, expected once")
    changed = text.replace(mutant.old, mutant.new)
    try:
        compile(changed, str(path), "exec")
    except SyntaxError as error:
        raise Misfit(f"{mutant}: {error}") from error
    return changed


def tested(root: Path, room: str) -> tuple[int, str]:
    """Run a room's tests in a copy of the tree: pytest's exit status (-1: ended), and what failed first."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *TESTS[room]]
    # Bytecode is kept: to compile everything again takes longer than most rooms' tests.
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "PYTHONDONTWRITEBYTECODE": ""}
    try:
        done = subprocess.run(
            words, cwd=root, env=environment, capture_output=True, text=True, timeout=SLOWEST, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, "ended after a while"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, failed[0] if failed else done.stdout[-500:] + done.stderr[-500:]


def tried(mutant: Mutant, root: Path) -> Result:
    """Apply one mutant, run its room's tests, take it back.

    Raises:
        Misfit: the tests do not run at all on it (it breaks an import, say).
    """
    path = root / "src/whydiff" / mutant.file
    before, begun = path.read_text(encoding="utf-8"), time.perf_counter()
    _write(path, mutated(mutant, root))
    try:
        status, first = tested(root, mutant.room)
    finally:
        _write(path, before)
    if status not in (-1, 0, 1):
        raise Misfit(f"{mutant}: pytest ended with {status}: {first}")
    return Result(mutant, status != 0, time.perf_counter() - begun, first if status else "")


def _write(path: Path, text: str) -> None:
    """At a time of its own: bytecode is told from that of another text of this length by the second alone."""
    path.write_text(text, encoding="utf-8")
    second = next(_seconds)
    os.utime(path, (second, second))


def copied(folder: Path) -> Path:
    """The tree, without what is not tested."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        else:
            shutil.copy(source, target)
    return folder


def _all(chosen: Sequence[Mutant], folder: Path, jobs: int) -> list[Result]:
    """Every mutant, each in a copy that nobody else uses meanwhile.

    Raises:
        Misfit: a room's tests fail without a mutant, or do not run with one.
    """
    free: SimpleQueue[Path] = SimpleQueue()
    for number in range(jobs):
        (folder / str(number)).mkdir()
        free.put(copied(folder / str(number)))

    def in_a_copy(work: Callable[[Path], T]) -> T:
        root = free.get()
        try:
            return work(root)
        finally:
            free.put(root)

    with ThreadPoolExecutor(jobs) as pool:
        rooms = list(dict.fromkeys(mutant.room for mutant in chosen))
        for room, (status, first) in zip(
            rooms, pool.map(lambda room: in_a_copy(lambda root: tested(root, room)), rooms), strict=True
        ):
            if status != 0:
                raise Misfit(f"the tests of {room} fail without a mutant: {first}")
        return list(pool.map(lambda mutant: in_a_copy(lambda root: _told(tried(mutant, root))), chosen))


def _told(done: Result) -> Result:
    by = f"\n                    {done.by[:200]}" if done.by else ""
    print(f"{'caught  ' if done.caught else 'SURVIVED'} {done.seconds:5.1f} s  {done.mutant}{by}", flush=True)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Check the list, then each room without a mutant, then every mutant."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--room", action="append", choices=sorted(TESTS), help="only this room's (may be repeated)")
    parser.add_argument("--only", default="", help="only mutants whose line contains this")
    parser.add_argument("--jobs", type=int, default=1, help="how many copies of the tree are tried side by side")
    parser.add_argument("--list", action="store_true", help="name them and check that they fit, no more")
    options = parser.parse_args(argv)
    chosen = [m for m in MUTANTS if (not options.room or m.room in options.room) and options.only in str(m)]
    results: list[Result] = []
    try:
        for mutant in MUTANTS:
            mutated(mutant, ROOT)
        if options.list:
            print("\n".join(map(str, chosen)))
            return 0
        with tempfile.TemporaryDirectory() as folder:
            results += _all(chosen, Path(folder), options.jobs)
    except Misfit as error:
        print(error, file=sys.stderr)
        return 2
    caught = sum(result.caught for result in results)
    print(f"{caught} of {len(results)} mutants are caught by the tests of their own room")
    return int(caught < len(results))


if __name__ == "__main__":
    sys.exit(main())
