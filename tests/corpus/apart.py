"""Cases of a score, each in a process of its own with a time limit, several at once; the sums as they come."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

LIMIT = 300.0
Kind = Literal["right", "planted"]


@dataclass(frozen=True)
class Check:
    """One check and what was found.

    Attributes:
        name: what is checked.
        kind: a right file or port, or one with a planted mistake.
        placed: the mistake's place is found; of a right one: `identical` or `rounding`.
        named: the mistake is named; of a right one: as ``placed``.
        wrong: what is confirmed and was not planted.
        told: what was found, for people.
        ran: whether the check came to its end.
    """

    name: str
    kind: Kind
    placed: bool = False
    named: bool = False
    wrong: tuple[str, ...] = ()
    told: str = ""
    ran: bool = True

    @property
    def good(self) -> bool:
        """Whether nothing is missing and nothing is wrong."""
        return self.placed and self.named and not self.wrong


Planned = list[tuple[str, Kind]]
Case = Callable[[str], Iterator[Planned | Check]]
"""A case by its name: first what it will check, then the checks."""


def within(case: Case, name: str, file: Path) -> None:
    """Carry out a case in this process; each line of the file is what is planned, or a check."""
    with file.open("a", encoding="utf-8") as out:
        for one in case(name):
            print(json.dumps(asdict(one) if isinstance(one, Check) else one), file=out, flush=True)


def apart(module: str, name: str, limit: float) -> list[Check]:
    """Carry out a case in a process of its own; what was planned and did not come is no good check."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "checks"
        file.touch()
        command = [sys.executable, "-m", module, "--one", name, str(file)]
        try:
            done = subprocess.run(
                command, env={"OMP_NUM_THREADS": "1", **os.environ}, capture_output=True, text=True, timeout=limit
            )
            ended = "" if done.returncode == 0 else f"status {done.returncode}: {done.stderr.strip()[-300:]}"
        except subprocess.TimeoutExpired:
            ended = f"ended after {limit:.0f} s"
        written = file.read_text(encoding="utf-8").splitlines(keepends=True)
    lines = [json.loads(line) for line in written if line.endswith("\n")]
    planned = next((line for line in lines if isinstance(line, list)), [[name, "right"]])
    checks = [Check(**{**line, "wrong": tuple(line["wrong"])}) for line in lines if isinstance(line, dict)]
    came = {check.name for check in checks}
    return checks + [
        Check(name=one, kind=kind, told=ended or "it was left out", ran=False)
        for one, kind in planned
        if one not in came
    ]


def sums(checks: Sequence[Check], seconds: float) -> str:
    """Right ones, places, names, and what was confirmed wrongly."""
    right, planted = ([check for check in checks if check.kind == kind] for kind in ("right", "planted"))
    return (
        f"right {_share([c.placed for c in right])}, placed {_share([c.placed for c in planted])}, "
        f"named {_share([c.named for c in planted])}; confirmed wrongly {sum(len(c.wrong) for c in checks)}; "
        f"not run to the end {sum(not c.ran for c in checks)}; {seconds:.0f} s"
    )


def _share(good: list[bool]) -> str:
    return f"{sum(good)} of {len(good)} ({sum(good) / max(len(good), 1):.1%})"


def main(module: str, names: Sequence[str], case: Case, argv: Sequence[str] | None = None) -> int:
    """The command line of a score: what is not as it should be, and the sums.

    Args:
        module: that a process of one case runs.
        names: of the cases.
        case: see `Case`.
        argv: ``[WORD …] [--jobs N] [--limit SECONDS]``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("words", nargs="*", help="only cases whose name contains one of these")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of a case")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FILE"), help="one case in this process, checks to a file")
    given = parser.parse_args(argv)
    if given.one:
        warnings.filterwarnings("ignore")
        within(case, given.one[0], Path(given.one[1]))
        return 0
    chosen = [name for name in names if not given.words or any(word in name for word in given.words)]
    checks: list[Check] = []
    begin = time.perf_counter()
    with ThreadPoolExecutor(given.jobs) as pool:
        running = [pool.submit(apart, module, name, given.limit) for name in chosen]
        for count, one in enumerate(as_completed(running), 1):
            checks += one.result()
            for check in one.result():
                if not check.good:
                    print(_line(check), flush=True)
            print(f"[{count} of {len(chosen)} cases] {sums(checks, time.perf_counter() - begin)}", flush=True)
    print(f"in all: {sums(checks, time.perf_counter() - begin)}")
    return int(any(check.wrong or not check.ran or (check.kind == "right" and not check.good) for check in checks))


def _line(check: Check) -> str:
    what = [
        "" if check.ran else "NOT RUN",
        "" if check.placed else "NOT RIGHT" if check.kind == "right" else "NOT PLACED",
        "" if check.named or check.kind == "right" else "NOT NAMED",
        f"WRONG {'; '.join(check.wrong)}" if check.wrong else "",
    ]
    return f"{check.name}: {' '.join(word for word in what if word)} – {check.told}"
