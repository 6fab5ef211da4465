"""How do whydiff's steps grow with the number of calls, of bytes and of origins?

    python -m benchmarks.growth                      # 1,000 and 10,000 of each, minutes
    python -m benchmarks.growth --most 100000        # calls up to 100,000

Prints processor seconds (of all threads: other work on the machine hardly changes them) and peak memory of a process
for each size, and two exponents: of a line through the logarithms of all sizes (least squares; what is not growth draws it
down), and between the two largest sizes. Nothing is asserted: this is a measurement, not a test.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import linear_regression

import torch
import torch.nn.functional as F

import whydiff
from whydiff.pair.align import align
from whydiff.pipeline import Options

Seconds = dict[str, float]


@contextmanager
def taken(seconds: Seconds, what: str) -> Iterator[None]:
    """Processor seconds of a block."""
    begin = time.process_time()
    yield
    seconds[what] = time.process_time() - begin


def steps(number: int, seed: int, more: int = 0) -> Callable[[torch.Tensor], torch.Tensor]:
    """That many calls of few kinds, in an order that a seed chooses; one in about thirty depends on it.

    ``more``: after so many of them comes one more, of another kind; 0: none does.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds = [torch.tanh, torch.sigmoid, torch.sin, torch.cos]
    common = torch.randint(4, (number,), generator=torch.Generator().manual_seed(0)).tolist()
    other = torch.randint(120, (number,), generator=generator).tolist()

    def run(x: torch.Tensor) -> torch.Tensor:
        for place, (one, own) in enumerate(zip(common, other, strict=True), 1):
            x = kinds[own if own < 4 else one](x)
            if more and place % more == 0:
                x = torch.neg(x)
        return x

    return run


def calls(number: int) -> Seconds:
    """Capture, opening, alignment, self-comparison and the report of it."""
    seconds: Seconds = {}
    x = torch.randn(8)
    with tempfile.TemporaryDirectory() as folder:
        places = [f"{folder}/{seed}" for seed in (1, 2)]
        for seed, place in enumerate(places, 1):
            with taken(seconds, "capture"), whydiff.capture(place, payloads="all"):
                steps(number, seed)(x)
        with taken(seconds, "open"):
            traces = [whydiff.open(place) for place in places]
        with taken(seconds, "align, 3 % of the calls edited"):
            align(*traces)
        longer = f"{folder}/longer"
        with whydiff.capture(longer, payloads="none"):
            steps(number, 1, more=7)(x)
        traces[1] = whydiff.open(longer)
        with taken(seconds, "align, one call more in every seven"):
            align(*traces)
        with taken(seconds, "compare with itself"):
            whydiff.compare(places[0], places[0], options=Options(trust=True))
        equal = shutil.copytree(places[0], f"{folder}/equal")
        with taken(seconds, "compare two equal traces"):
            found = whydiff.compare(places[0], equal, options=Options(trust=True))
        with taken(seconds, "report"):
            reported(found, Path(folder))
    return seconds


def numbers(count: int) -> Seconds:
    """A comparison of two small programs on a tensor of that many bytes."""
    seconds: Seconds = {}
    x = torch.randn(count // 4, generator=torch.Generator().manual_seed(0))
    with taken(seconds, "compare two activations"):
        whydiff.compare(lambda x: F.gelu(x * 2), lambda x: F.gelu(x * 2, approximate="tanh"), x)
    return seconds


def origins(number: int) -> Seconds:
    """A comparison of which every call is an origin."""
    seconds: Seconds = {}
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))

    def norms(eps: float) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(x: torch.Tensor) -> torch.Tensor:
            for _ in range(number):
                x = F.layer_norm(x, (16,), None, None, eps)
            return x

        return run

    with taken(seconds, "compare"):
        found = whydiff.compare(norms(1e-5), norms(1e-3), x)
    assert len(found.origins) == number, len(found.origins)
    with tempfile.TemporaryDirectory() as folder, taken(seconds, "report"):
        reported(found, Path(folder))
    return seconds


def reported(found: whydiff.Diagnosis, folder: Path) -> None:
    """In every form."""
    with contextlib.redirect_stdout(io.StringIO()):
        found.print()
    for form in ("html", "json", "md"):
        found.save(str(folder / f"report.{form}"))


PARTS = {"calls": calls, "bytes": numbers, "origins": origins}


def measured(part: str, size: int) -> tuple[Seconds, int]:
    """Seconds and MB of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", "--one", part, str(size)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Slope of the line through the logarithms that is nearest in least squares; NaN where nothing was measured."""
    if len(sizes) < 2 or not all(seconds):
        return float("nan")
    return linear_regression([math.log(n) for n in sizes], [math.log(s) for s in seconds]).slope


def main() -> None:
    """Parse the command line and print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=10_000, help="calls at most (default: 10000)")
    parser.add_argument("--one", nargs=2, metavar=("PART", "SIZE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        whydiff.compare(torch.sin, torch.cos, torch.ones(4))  # what is loaded once is no growth
        seconds = PARTS[given.one[0]](int(given.one[1]))
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10]))
        return
    sizes = {
        "calls": [n for n in (1_000, 10_000, 100_000) if n <= given.most],
        "bytes": [1 << 20, 1 << 22, 1 << 24],
        "origins": [1_000, 2_500, 5_000, 10_000],
    }
    for part, chosen in sizes.items():
        rows = {size: measured(part, size) for size in chosen}
        print(f"\n{part}: " + ", ".join(f"{size:,}" for size in chosen))
        for what in next(iter(rows.values()))[0]:
            taken_by = [rows[size][0][what] for size in chosen]
            both = f"exponent {exponent(chosen, taken_by):.2f}, at last {exponent(chosen[-2:], taken_by[-2:]):.2f}"
            print(f"  {what:36} {' '.join(f'{one:8.2f}' for one in taken_by)} s   {both}")
        print(f"  {'peak':36} {' '.join(f'{rows[size][1]:8}' for size in chosen)} MB")


if __name__ == "__main__":
    main()
