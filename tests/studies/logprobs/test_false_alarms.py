"""What real engines make that is no mistake, and what must not pass because most tokens agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import whydiff
from whydiff.records import Verdict
from whydiff.studies.logprobs import LogprobComparison

SEQUENCES, TOKENS = 12, 40
RANDOM = np.random.default_rng(3)
ENGINE = -RANDOM.exponential(2.0, (SEQUENCES, TOKENS)) - 0.05
IDS = RANDOM.integers(0, 500, (SEQUENCES, TOKENS))
NOISE = 0.01 * RANDOM.standard_normal((SEQUENCES, TOKENS))


def side(values: Any, **extra: Any) -> dict[str, Any]:
    names = [f"r{n}" for n in range(len(values))]
    return {"id": names, "token_ids": IDS[: len(values)].tolist(), "logprobs": np.asarray(values).tolist(), **extra}


def names(found: LogprobComparison) -> list[str]:
    return sorted(one.test for one in found.found)


@pytest.mark.parametrize("extra", [{}, {"worker": [n % 4 for n in range(SEQUENCES)]}])
def test_batches_that_agree_bit_for_bit_beside_others_that_round_are_benign(extra: dict[str, Any]) -> None:
    rounded = np.arange(SEQUENCES) % 4 == 1
    found = whydiff.compare_logprobs(side(ENGINE, **extra), side(ENGINE + NOISE * rounded[:, None]))
    assert names(found) == [] and found.verdict is Verdict.ROUNDING


def test_the_padded_rounding_of_a_batch_is_benign() -> None:
    sizes = [TOKENS if n % 4 == 1 else 25 + n for n in range(SEQUENCES)]
    noise = NOISE * np.array([size < TOKENS for size in sizes])[:, None] / 10
    sides = [
        {"token_ids": [row[:size].tolist() for row, size in zip(IDS, sizes, strict=True)], "logprobs": values}
        for values in (
            [row[:size].tolist() for row, size in zip(every, sizes, strict=True)] for every in (ENGINE, ENGINE + noise)
        )
    ]
    assert names(whydiff.compare_logprobs(*sides)) == []


@pytest.mark.parametrize("by", [1, 3])
def test_zeros_that_a_shift_leaves_at_the_beginning_are_no_prompt(by: int) -> None:
    late = np.concatenate([np.zeros((SEQUENCES, by)), ENGINE[:, :-by]], 1)
    assert names(whydiff.compare_logprobs(side(ENGINE), side(late))) == ["shift"]


def test_a_prompt_of_zeros_is_seen_beside_certain_tokens_elsewhere() -> None:
    cut = np.where(ENGINE > -0.8, 0.0, ENGINE)
    cut[:, :4] = 0.0
    found = whydiff.compare_logprobs(side(cut), side(ENGINE + NOISE))
    assert "prompt positions" in names(found)


@pytest.mark.parametrize("value", [-12.0, -np.inf])
def test_too_many_tokens_that_are_far_off_are_not_benign_because_most_agree(value: float) -> None:
    other = np.where(RANDOM.random(ENGINE.shape) < 0.1, value, ENGINE + NOISE)
    found = whydiff.compare_logprobs(side(ENGINE), side(other))
    assert found.verdict not in (Verdict.IDENTICAL, Verdict.ROUNDING, Verdict.PRECISION)


def test_values_after_other_tokens_are_asked_for_nothing_else() -> None:
    tokens, values = IDS.copy(), ENGINE + NOISE
    tokens[:3, 5], values[:3, 6:] = 999, ENGINE[:3, 6:] * 1.7
    found = whydiff.compare_logprobs(side(ENGINE), {**side(values), "token_ids": tokens.tolist()})
    assert names(found) == ["tokenisation"]


def test_the_report_draws_the_ratio_by_position_and_what_rounding_explains(tmp_path: Any) -> None:
    found = whydiff.compare_logprobs(side(ENGINE), side(ENGINE + NOISE))
    found.save(str(tmp_path / "a.html"))
    page = (tmp_path / "a.html").read_text()
    for title in ("Tokens by log r", "What is left, by position", "|log r| by position", "bfloat16 explains"):
        assert title in page
    assert sum(many for _, _, many in found.statistics.histogram) == found.statistics.all.tokens


@pytest.mark.parametrize(
    "cut",
    [
        lambda values: np.trunc(values * 1e4) / 1e4,
        lambda values: np.floor(values * 1e6) / 1e6,
        lambda values: values * (1 - 2**-52),
        lambda values: values - 0.01,
    ],
)
def test_digits_that_one_side_cuts_and_a_constant_are_no_cut_distribution_and_no_temperature(cut: Any) -> None:
    found = whydiff.compare_logprobs(side(ENGINE), side(cut(ENGINE)))
    assert names(found) == []


def test_a_distribution_that_is_cut_is_still_told_where_few_digits_are_kept() -> None:
    kept = np.random.default_rng(5).uniform(0.9, 1.0, ENGINE.shape)
    found = whydiff.compare_logprobs(side(ENGINE), side(np.round(ENGINE - np.log(kept), 4)))
    assert names(found) == ["truncated"]


def test_another_base_is_one_mistake_and_not_two() -> None:
    assert names(whydiff.compare_logprobs(side(ENGINE), side(ENGINE / np.log(2)))) == ["unit"]


def test_values_of_other_tokens_are_no_multiple() -> None:
    likely, unlikely = (base - np.random.default_rng(6).exponential(0.5, ENGINE.shape) for base in (-0.5, -8.0))
    assert "unit" not in names(whydiff.compare_logprobs(side(likely), side(unlikely[:, ::-1])))


def _longer(steps: Any, sizes: list[int], key: str) -> LogprobComparison:
    """Sequences whose noise grows with the position, some of them longer than others."""
    noise = 2e-4 * np.random.default_rng(7).standard_normal((60, TOKENS)) * np.arange(1, TOKENS + 1)
    values = -np.random.default_rng(8).exponential(2.0, (60, TOKENS)) - 0.5
    sides = []
    for every in (values, values + noise):
        rows = [row[:size].tolist() for row, size in zip(every, sizes, strict=True)]
        ids = [[n * TOKENS + m for m in range(size)] for n, size in enumerate(sizes)]
        sides.append({"id": list(range(60)), "token_ids": ids, "logprobs": rows, key: steps})
    return whydiff.compare_logprobs(*sides)


@pytest.mark.parametrize("key", ["step", "worker"])
def test_longer_sequences_make_no_stale_weights_and_no_worker(key: str) -> None:
    groups = [n // 12 for n in range(60)]
    sizes = [6 + 8 * group if key == "step" else 6 + 34 * (group == 4) for group in groups]
    assert names(_longer(groups, sizes, key)) == []


def test_what_float32_explains_is_neither_stale_nor_a_worker() -> None:
    grows = np.repeat([1e-6, 2e-6, 4e-6, 3e-5], SEQUENCES // 4)[:, None]
    for key in ("step", "worker"):
        extra = {key: [n * 4 // SEQUENCES for n in range(SEQUENCES)]}
        found = whydiff.compare_logprobs(side(ENGINE, **extra), side(ENGINE + 100 * NOISE * grows, **extra))
        assert names(found) == [] and found.verdict is Verdict.ROUNDING


def test_the_level_of_rounding_is_that_of_the_largest_change_too() -> None:
    other = ENGINE + 1e-4 * NOISE
    other[3, 7] -= 0.2
    found = whydiff.compare_logprobs(side(ENGINE), side(other))
    noise = found.result("noise")
    assert noise is not None and "bfloat16" in noise.says() and "at most" in noise.says()
    assert "float32" in whydiff.compare_logprobs(side(ENGINE), side(ENGINE + 1e-4 * NOISE)).results[-1].says()
