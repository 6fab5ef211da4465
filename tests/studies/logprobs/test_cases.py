"""Sixty-one generated pairs: what is planted is found, nothing else is, and nothing benign is accused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tests.studies.logprobs.made import Case, cases, expected, make

import whydiff
from whydiff.records import Verdict
from whydiff.studies.logprobs.pairs import Pairs
from whydiff.studies.logprobs.passes.shift import shift
from whydiff.studies.logprobs.results import Shift, Stale, Temperature, Truncated, Worker

CASES = cases()
KEPT_BACK = json.loads((Path(__file__).parent / "answers.json").read_text())


def test_the_answers_that_were_kept_back_are_those_of_the_second_half() -> None:
    assert {case.name: expected(case) for case in CASES[len(CASES) // 2 :]} == KEPT_BACK


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_what_was_planted_is_found_and_nothing_else(case: Case, tmp_path: Path) -> None:
    found = whydiff.compare_logprobs(*make(case, tmp_path))
    assert sorted({one.test for one in found.found}) == expected(case)
    benign = not expected(case)
    assert benign == (found.verdict in (Verdict.ROUNDING, Verdict.PRECISION))
    planted = dict(case.mistakes)
    for one in found.found:
        if isinstance(one, Temperature):
            assert one.value == pytest.approx(planted["temperature"], rel=0.02)
        elif isinstance(one, Shift):
            assert one.by == planted["shift"]
        elif isinstance(one, Truncated) and "top-p" in planted:
            assert one.top_p == pytest.approx(planted["top-p"], abs=0.03)
        elif isinstance(one, Stale):
            assert one.steps == tuple(range(8))
        elif isinstance(one, Worker) and "worker temperature" in planted:
            inside = next(part for part in one.inside if isinstance(part, Temperature))
            assert inside.found
            assert inside.value == pytest.approx(planted["worker temperature"], rel=0.05)
        elif isinstance(one, Worker):
            wanted = {"npz": (1,), "jsonl": ("gpu-1",), "parquet": ("gpu-1",)}
            if one.named:
                assert one.names == wanted[case.suffix[1:]]
            else:
                assert [str(name).removeprefix("sample-") for name in one.names] == ["3", "7"]


def test_other_draws_of_the_benign_cases_are_not_accused(tmp_path: Path) -> None:
    benign = [case for case in CASES if not expected(case)]
    for case in benign:
        for seed in (1, 2, 3):
            other = Case(case.name, case.mistakes, case.noise, ".npz", case.seed + 10_000 * seed)
            assert whydiff.compare_logprobs(*make(other, tmp_path)).found == ()


def test_the_temperature_is_estimated_without_bias() -> None:
    random = np.random.default_rng(0)
    errors = []
    for _ in range(24):
        logits = random.standard_normal((240, 64)) * 3
        tokens = (logits + random.gumbel(size=logits.shape)).argmax(-1)[:, None]

        def chosen(values: np.ndarray, tokens: np.ndarray = tokens) -> list[float]:
            shifted = values - np.log(np.exp(values).sum(-1, keepdims=True))
            return np.take_along_axis(shifted, tokens, 1)[:, 0].tolist()  # type: ignore[no-any-return]

        ids = tokens[:, 0].tolist()
        found = whydiff.compare_logprobs(
            {"token_ids": [ids], "logprobs": [chosen(logits)]}, {"token_ids": [ids], "logprobs": [chosen(logits / 0.6)]}
        ).result("temperature")
        assert isinstance(found, Temperature)
        assert found.found
        assert found.low is not None and found.high is not None
        assert found.low - 0.05 < 0.6 < found.high + 0.05
        assert found.sampled == "reference"
        errors.append((found.value - 0.6) / (found.error or 0))
    assert abs(np.mean(errors)) < 3 / np.sqrt(24)
    assert np.std(errors) < 2


def test_shifts_are_looked_at_one_at_a_time() -> None:
    """33 of them at once were half a gigabyte for a million tokens."""
    values = np.random.default_rng(0).normal(-3, 1, 50_000).clip(None, -0.1)
    every = Pairs(
        reference=values,
        candidate=values,
        sequence=np.zeros(values.size, np.int64),
        position=np.arange(values.size),
        ids=("a",),
    )
    tracemalloc.start()
    try:
        shift(every)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * values.nbytes
