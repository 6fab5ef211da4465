"""``python -m tests.scores.logprobs``: sixty pairs of an engine and a trainer with real mistakes, and benign ones.

A pair is right if exactly the tests that its row names find something and a fitted number is the planted one. ``noise`` is
allowed beside what really changes the context of the tokens. The rows marked ``kept`` were written before the first run
(25 of these 30 were right then); later changes were made with all rows seen.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.scores.logprob_world import Planted, make

import whydiff
from whydiff.records import Verdict
from whydiff.studies.logprobs import LogprobComparison
from whydiff.studies.logprobs.results import Shift, Temperature, Unit, Worker

CONTEXT = frozenset({"bos", "retokenised"})
"""They change what the model reads: noise and outliers beyond rounding are true there."""
_ONE: tuple[tuple[Planted, str], ...] = (
    *(({"sampling": {"temperature": t}}, "temperature") for t in (0.6, 0.8, 1.25)),
    *(({"temperature": t}, "temperature") for t in (0.7, 0.9, 1.6)),
    *(({"sampling": {"top_p": p}}, "truncated") for p in (0.9, 0.7)),
    *(({"sampling": {"top_k": k}}, "truncated") for k in (20, 5)),
    *(({"shift": by}, "shift") for by in (1, -1, 2)),
    ({"bos": True}, "special tokens"),
    ({"eos": True}, "special tokens"),
    *(({"retokenised": every}, "tokenisation") for every in (2, 8)),
    ({"trainer prompt": True}, "prompt positions"),
    ({"zeros": 4}, "prompt positions"),
    ({"zeros": 2}, "prompt positions"),
    *(({"stale": size}, "stale weights") for size in (0.05, 0.15, 0.5)),
    *(({"worker": size}, "worker") for size in (0.1, 0.4)),
    ({"worker sampling": {"temperature": 0.7}}, "worker"),
    ({"padded": True}, "padding"),
    ({"padded": True}, "padding"),
    ({"pads": "left"}, "padding side"),
    ({"pads": "right"}, "padding side"),
    *(({"router": share}, "outliers") for share in (0.01, 0.03)),
    *(({"unit": factor}, "unit") for factor in (-1.0, 1 / math.log(2))),
)
_TWO: tuple[tuple[Planted, tuple[str, str]], ...] = (
    ({"sampling": {"temperature": 0.7}, "shift": 1}, ("temperature", "shift")),
    ({"temperature": 0.8, "trainer prompt": True}, ("temperature", "prompt positions")),
    ({"temperature": 1.3, "pads": "left"}, ("temperature", "padding side")),
    ({"temperature": 0.75, "eos": True}, ("temperature", "special tokens")),
    ({"sampling": {"top_p": 0.8}, "zeros": 3}, ("truncated", "prompt positions")),
    ({"sampling": {"top_k": 10}, "shift": -1}, ("truncated", "shift")),
    ({"stale": 0.3, "shift": 1}, ("stale weights", "shift")),
    ({"stale": 0.3, "pads": "right"}, ("stale weights", "padding side")),
    ({"worker": 0.3, "eos": True}, ("worker", "special tokens")),
    ({"router": 0.02, "trainer prompt": True}, ("outliers", "prompt positions")),
    ({"unit": -1.0, "shift": 2}, ("unit", "shift")),
    ({"retokenised": 4, "shift": 1}, ("tokenisation", "shift")),
)
_BENIGN = tuple(
    (noise, extra)
    for noise, extras in (
        ("batch", ({}, {"named": True}, {"steps": True}, {}, {"named": True, "steps": True})),
        ("bf16", ({}, {"named": True}, {"steps": True}, {}, {})),
        ("fp8", ({}, {"named": True}, {"steps": True}, {})),
    )
    for extra in extras
)


@dataclass(frozen=True)
class Case:
    """What is planted on which noise, and the tests that must find it; ``kept``: see the module."""

    name: str
    planted: Planted
    noise: str
    finds: tuple[str, ...]
    kept: bool
    seed: int


def cases(offset: int = 0) -> tuple[Case, ...]:
    """The sixty, every second one kept back."""
    noises = ("batch", "bf16")
    rows: list[tuple[Planted, str, tuple[str, ...]]] = []
    rows += [(planted, noises[n // 2 % 2], (test,)) for n, (planted, test) in enumerate(_ONE)]
    rows += [(planted, noises[n // 2 % 2], tests) for n, (planted, tests) in enumerate(_TWO)]
    rows += [(extra, noise, ()) for noise, extra in _BENIGN]
    return tuple(
        Case(
            name=f"{n:02d} {json.dumps(planted)} on {noise}",
            planted=planted,
            noise=noise,
            finds=tests,
            kept=n % 2 == 1,
            seed=7000 + n + 100 * offset,
        )
        for n, (planted, noise, tests) in enumerate(rows)
    )


def wrong(case: Case, found: LogprobComparison) -> str:
    """What is not as it was planted; empty: right."""
    got = {one.test for one in found.found}
    free = {"noise", "outliers"} if CONTEXT & case.planted.keys() else set()
    if got - free != set(case.finds) - free:
        return f"found {sorted(got)}"
    if not case.finds and found.verdict not in (Verdict.ROUNDING, Verdict.PRECISION):
        return f"the verdict is {found.verdict}"
    return "; ".join(_numbers(case.planted, found))


def _numbers(planted: Planted, found: LogprobComparison) -> Iterator[str]:
    for one in found.found:
        if isinstance(one, Temperature):
            wanted = planted.get("temperature", 1 / planted.get("sampling", {}).get("temperature", 1.0))
            if abs(one.value / wanted - 1) > 0.03:
                yield f"T = {one.value:.4f}, planted {wanted:.4f}"
        elif isinstance(one, Shift) and one.by != planted["shift"]:
            yield f"shifted by {one.by}"
        elif isinstance(one, Unit) and planted["unit"] > 0 and one.kind != "base 2":
            yield f"unit {one.kind}"
        elif isinstance(one, Worker) and one.names != ("node-2",):
            yield f"workers {one.names}"


def judged(case: Case) -> str:
    """Make one pair and compare it."""
    with tempfile.TemporaryDirectory() as folder:
        return wrong(case, whydiff.compare_logprobs(*make(case.planted, case.noise, case.seed, Path(folder))))


def seconds(rows: int, folder: Path, each: int) -> float:
    """Processor time from two JSONL files of ``rows`` log-probabilities, ``each`` of them a line, to the result."""
    random = np.random.default_rng(0)
    for side in range(2):
        with open(folder / f"{side}.jsonl", "w") as file:
            draw = np.random.default_rng(1)
            for n in range(rows // 500):
                tokens = draw.integers(0, 50_000, 500).tolist()
                values = (-draw.exponential(1.0, 500) * np.exp(1e-3 * side * random.standard_normal(500))).tolist()
                if each > 1:
                    file.write(json.dumps({"id": f"r{n}", "token_ids": tokens, "logprobs": values}) + "\n")
                for place in range(500 if each == 1 else 0):
                    line = {"id": f"r{n}", "position": place, "token": tokens[place], "logprob": values[place]}
                    file.write(json.dumps(line) + "\n")
    begun = time.process_time()
    whydiff.compare_logprobs(folder / "0.jsonl", folder / "1.jsonl")
    return time.process_time() - begun


def main() -> int:
    """Print what is wrong and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offset", type=int, default=0, help="other random numbers")
    parser.add_argument("--rows", type=int, default=0, help="only say how long this many rows take")
    given = parser.parse_args()
    if given.rows:
        with tempfile.TemporaryDirectory() as folder:
            for each in (500, 1):
                print(f"{given.rows} tokens, {each} a line: {seconds(given.rows, Path(folder), each):.1f} s")
        return 0
    rows = []
    for case in cases(given.offset):
        text = judged(case)
        rows.append((case, text))
        if text:
            print(f"WRONG {case.name}: {text}", flush=True)
    told: dict[str, Any] = {"all": rows, "kept back": [row for row in rows if row[0].kept]}
    for name, some in told.items():
        print(f"{name}: {sum(not text for _, text in some)} of {len(some)} right")
    accused = sum(bool(text) for case, text in rows if not case.finds)
    print(f"benign: {accused} of {sum(not case.finds for case, _ in rows)} accused")
    return int(any(text for _, text in rows))


if __name__ == "__main__":
    sys.exit(main())
