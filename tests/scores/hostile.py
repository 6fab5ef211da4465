"""``python -m tests.scores.hostile --traces 20000 --artifacts 5000``: sealed files that somebody changed on purpose.

Each trace is an honest one with something changed and every checksum computed anew: values of the manifest, lines of the
index, specs, arguments, the operator (every registered one and every attribute of torch's objects, in turn, with arguments
made up from its schema), the payloads' bytes. It is compared with its honest counterpart by the code that users have, in a
process forked from this one instead of a new interpreter. Each artifact is a file of a tree, changed in its bytes, in the
members of its archive, or in its values.

Wrong is: an exception other than a clear error; a verdict `identical` although the recorded outputs differ; more than 10 s
of the processor or 1 GiB; a file, socket or process that was asked for; a control character in a report; a change of this
process's state.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.scores.changed_artifacts import Artifacts
from tests.scores.changed_traces import Traces
from tests.scores.every_operator import Operators
from tests.scores.judged import state

from whydiff.errors import harmless


def run(name: str, maker: Any, numbers: range, report: Callable[[str], None]) -> Counter[str]:
    """Try many; tell of every wrong one; count what came out."""
    outcomes: Counter[str] = Counter()
    before = state()
    for number in numbers:
        kind, wrong, outcome = maker.tried(number)
        outcomes[outcome.partition(" after")[0]] += 1
        outcomes["processes that died"] += " after" in outcome
        if now := [key for key, value in before.items() if value != state()[key]]:
            wrong.append(f"this process changed: {', '.join(now)}")
            before = state()
        if wrong:
            outcomes["WRONG"] += 1
            report(f"{name} #{number} ({kind}): {outcome}: {'; '.join(wrong)}")
        if (number + 1) % 500 == 0:
            report(f"{name}: {number + 1} tried, {dict(outcomes)}")
    return outcomes


def spent() -> tuple[float, float]:
    """Seconds of the processor, forks that ended too, and on the clock."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system, time.monotonic()


def main() -> int:
    """Run, print what is wrong as it comes, then what came out how often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=20_000)
    parser.add_argument("--artifacts", type=int, default=5_000)
    parser.add_argument("--operators", type=int, nargs="?", const=1, help="also execute every (Nth) operator alone")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    given = parser.parse_args()
    os.environ.pop("WHYDIFF_RAISE", None)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    every = 0

    def report(line: str) -> None:
        print(harmless(line), flush=True)

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as temporary:
        tempfile.tempdir = temporary  # nothing may stay there
        for name, made, count in (("artifact", Artifacts, given.artifacts), ("trace", Traces, given.traces)):
            if count:
                place = Path(folder) / name
                place.mkdir()
                maker, begun = made(place), spent()
                gc.freeze()  # what is loaded is not looked through, and so not copied, in every fork
                outcomes = run(name, maker, range(given.first, given.first + count), report)
                used, waited = ((now - then) / count for now, then in zip(spent(), begun, strict=True))
                each = f"{used:.3f} s of the processor and {waited:.3f} s on the clock each"
                report(f"{name}s: {count} tried; {dict(outcomes)}; {each}")
                every += outcomes["WRONG"]
        if given.operators:
            (Path(folder) / "operators").mkdir()
            alone = Operators(Path(folder) / "operators")
            alone.every = alone.every[:: given.operators]
            outcomes = alone.run(report)
            report(f"operators: {dict(outcomes)}")
            every += outcomes["WRONG"]
    return 1 if every else 0


if __name__ == "__main__":
    sys.exit(main())
