"""Regions whose values on the way are too many: judged at a sample, with the verdict and the cause of small ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_examine import case_of

from whydiff.explain.causes._explained import explained
from whydiff.explain.causes.en003 import REGISTER
from whydiff.explain.local_test import Examined, LocalResult, examine
from whydiff.explain.local_test.large import rows_of
from whydiff.judge.verify import verify

module: Any = sys.modules["whydiff.explain.local_test.examine"]
SIZE = 1 << 12  # numbers that may be held: more than all that is read, and fewer than the scores are
torch.manual_seed(0)
Q, K, V = torch.randn(1, 4, 40, 8), torch.randn(1, 2, 40, 8), torch.randn(1, 2, 40, 8)
Program = Callable[..., torch.Tensor]


def joined(x: torch.Tensor) -> torch.Tensor:
    """Heads beside each other, as the layer behind an attention reads them."""
    return x.transpose(1, 2).reshape(1, 40, 32).tanh()


def fused(**options: Any) -> Program:
    return lambda q, k, v: joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options))


def eager(
    scale: float = 8**-0.5, causal: bool = False, head: int = -1, factor: float = 1.0, late: float = 1.0
) -> Program:
    """Attention written out; one head's values times a factor, the last position's scores times another."""

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (x[:, :, None].expand(1, 2, 2, 40, 8).reshape(1, 4, 40, 8) for x in (k, v))
        scores = q @ k.transpose(2, 3) * scale
        if late != 1:
            scores = scores * torch.where(torch.arange(40) < 39, 1.0, late)[:, None].to(q.dtype)
        if causal:
            allowed = torch.arange(40)[None] <= torch.arange(40)[:, None]
            scores = scores + torch.where(allowed, 0.0, torch.finfo(q.dtype).min).to(q.dtype)
        weights = scores.softmax(-1, torch.float32).to(q.dtype)
        if head >= 0:
            weights = weights * torch.where(torch.arange(4) == head, factor, 1.0).to(q.dtype)[:, None, None]
        return joined(weights @ v)

    return run


def at_once(scale: float = 8**-0.5) -> Program:
    """The same in other ops."""

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (x[:, :, None].expand(1, 2, 2, 40, 8).reshape(4, 40, 8) for x in (k, v))
        nothing = torch.zeros(1, 1, 1, dtype=q.dtype)
        scores = torch.baddbmm(nothing, q[0], k.mT, beta=0, alpha=scale)
        return joined(torch.baddbmm(nothing, torch.log_softmax(scores, -1).exp(), v)[None])

    return run


def judged(
    reference: Program, candidate: Program, most: int, dtype: torch.dtype = torch.float32
) -> tuple[LocalResult, Examined]:
    case = case_of(reference, candidate, *(x.to(dtype) for x in (Q, K, V)))
    told: list[Examined] = []
    module._ELEMENTS = most
    (result,) = examine(case, visit=told.append).values()
    (seen,) = told
    return result, seen


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ELEMENTS", module._ELEMENTS)


PAIRS = [
    (fused(), eager(), "rounding"),
    (eager(), fused(), "rounding"),
    (fused(is_causal=True), eager(causal=True), "rounding"),
    (fused(), eager(scale=0.3), "semantic"),
    (fused(), eager(causal=True), "inconclusive"),
    (fused(), eager(late=1.5), "inconclusive"),
    *((fused(), eager(head=head, factor=1.25), "inconclusive") for head in range(4)),
    (eager(), at_once(), "rounding"),
    (at_once(), eager(head=2, factor=0.5), "inconclusive"),
    (at_once(0.3), eager(), "inconclusive"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("reference", "candidate", "verdict"), PAIRS)
def test_a_large_region_is_judged_as_a_small_one(
    reference: Program, candidate: Program, verdict: str, dtype: torch.dtype
) -> None:
    small, seen = judged(reference, candidate, 1 << 26, dtype)
    large, few = judged(reference, candidate, SIZE, dtype)
    assert large.verdict == small.verdict == verdict
    assert [one.codes for one in large.hypotheses] == [one.codes for one in small.hypotheses]
    assert few.sampled and not seen.sampled and large.sampled[0] < large.sampled[1] == 40 * 32
    ours, theirs = ([op.run(op.reads, op.arguments) for op in one.operations] for one in (few, seen))
    for one, whole, output, outputs in zip(ours, theirs, few.outputs, seen.outputs, strict=True):
        assert one.size == large.sampled[0] == output.bits.size and np.isin(output.bits, outputs.bits).all()
        near = np.abs(whole.reshape(-1)[None] - one[:, None]).min(axis=1)
        assert near.max() < 1e-12


def test_what_one_call_makes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    replays = sys.modules["whydiff.explain.local_test.steps_apart"]
    known = replays._apply  # type: ignore[attr-defined]
    monkeypatch.setattr(replays, "_apply", lambda *given: [made.append(one.size) or one for one in known(*given)])
    judged(fused(), eager(), SIZE)
    assert made and max(made) <= 4 * 16 * 40  # heads, positions, keys


def test_a_region_that_cannot_be_cut_is_told_with_the_op() -> None:
    def scanned(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (x[:, :, None].expand(1, 2, 2, 40, 8).reshape(1, 4, 40, 8) for x in (k, v))
        return joined((q @ k.transpose(2, 3) * 8**-0.5).softmax(-1).cumsum(-1).diff(dim=-1, prepend=0 * q[..., :1]) @ v)

    case = case_of(fused(), scanned, Q, K, V)
    module._ELEMENTS = SIZE
    (result,) = examine(case).values()
    assert result.verdict == "inconclusive" and ":cumsum#0" in result.reason and "4096 elements" in result.reason


# ------------------------------------------------------------------------------------------------------------ rows


def test_rows_are_whole_and_lie_in_few_groups_and_hold_what_differs_most() -> None:
    shape, far = (
        (2, 8, 100, 16),
        [((1 * 8 + 5) * 100 + 7) * 16 + 3, ((1 * 8 + 5) * 100 + 50) * 16, (3 * 100 + 99) * 16 + 15],
    )
    index = rows_of(shape, [*far, 0])
    assert np.array_equal(index, np.unique(index)) and (index.reshape(-1, 16)[:, 0] % 16 == 0).all()
    groups = set(index // 1600)
    assert len(groups) == 4 and {13, 3} <= groups and 0 not in groups
    positions = {tuple((index[index // 1600 == group] // 16 % 100).tolist()) for group in groups}
    assert len(positions) == 1 and {0, 7, 50, 99} <= set(*positions)
    assert np.isin(far, index).all() and 32 <= index.size // 16 <= 4 * 12
    assert np.array_equal(index, rows_of(shape, [*far, 0]))


@pytest.mark.parametrize("shape", [(40, 8), (3,), (100_000,), (1, 1, 2, 4), (4, 2, 2)])
def test_small_results_are_sampled_as_far_as_there_are_any(shape: tuple[int, ...]) -> None:
    index = rows_of(shape, [])
    size = int(np.prod(shape))
    assert 0 < index.size <= size and index.max() < size and (size > 64 or index.size == size)


# ----------------------------------------------------------------------------------------------------------- cause


def causes(reference: Program, candidate: Program) -> list[tuple[str, str, str]]:
    case = case_of(reference, candidate, Q, K, V)
    found = verify(case, list(REGISTER.detect(case)))
    return [(cause.code, cause.status, cause.evidence[0].statement) for cause in found]


def test_another_kernel_is_named_and_shown_for_a_large_attention_too() -> None:
    expected = causes(fused(), eager())
    module._ELEMENTS = SIZE
    found = causes(fused(), eager())
    assert [one[:2] for one in found] == [one[:2] for one in expected] == [("EN003", "located")]
    assert " results: _scaled_dot_product" in found[0][2] and " results: " not in expected[0][2]


@pytest.mark.parametrize(
    "candidate", [candidate for _, candidate, verdict in PAIRS[3:10]], ids=[str(i) for i in range(7)]
)
def test_another_function_is_no_other_kernel(candidate: Program) -> None:
    module._ELEMENTS = SIZE
    assert causes(fused(), candidate) == []


def test_causes_that_look_at_whole_results_are_asked_of_several_origins_only() -> None:
    case = case_of(fused(), eager(scale=0.3), Q, K, V)
    for most in (1 << 26, SIZE):
        module._ELEMENTS = most
        assert [one.code for one in explained(replace(case, _shared={})).values()] == ["FO003"]


def test_a_sample_that_shows_one_function_is_not_enough_where_the_programs_do_not_agree_in_float64() -> None:
    def beside(program: Program, factor: float) -> Program:
        return lambda q, k, v: program(q, k, v) + torch.tanh(v.sum() * factor)

    for most in (1 << 26, SIZE):
        module._ELEMENTS = most
        case = case_of(beside(fused(), 0.1), beside(eager(), 0.2), Q, K, V)
        assert ("EN003" in {one.code for one in explained(case).values()}) == (most > SIZE)
