"""From two programs to one result per origin: single ops, regions, state, arguments."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pairs import refused

from whydiff.capturing.adapters import for_framework
from whydiff.explain.case import Case
from whydiff.explain.local_test import LocalResult, examine, local_test
from whydiff.locate.localize import localize
from whydiff.pair.align import align

DTYPES = (torch.float32, torch.bfloat16)


def case_of(reference: Callable[..., Any], candidate: Callable[..., Any], *inputs: torch.Tensor) -> Case:
    adapter = for_framework("torch")
    traces = [adapter.run(side, inputs, {}).capture(level="op") for side in (reference, candidate)]
    alignment = align(*traces)
    found, _ = localize(traces[0], traces[1], alignment, None)
    return Case(traces[0], traces[1], alignment, found, (None, None))


def results(reference: Callable[..., Any], candidate: Callable[..., Any], *inputs: torch.Tensor) -> list[LocalResult]:
    case = case_of(reference, candidate, *inputs)
    found = examine(case)
    assert sorted(found) == list(range(len(case.localization.origins)))
    return [found[i] for i in sorted(found)]


def only(reference: Callable[..., Any], candidate: Callable[..., Any], *inputs: torch.Tensor) -> LocalResult:
    (result,) = results(reference, candidate, *inputs)
    return result


def codes(result: LocalResult) -> list[str]:
    return [code for item in result.hypotheses for code in item.codes]


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer_norm(eps: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: F.layer_norm(x, (x.shape[-1],), None, None, eps)


def norm_by_hand(eps: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def norm(x: torch.Tensor) -> torch.Tensor:
        variance = x.var(-1, correction=0, keepdim=True)
        return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(variance + eps)

    return norm


def attention(scale: float | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    def attend(q: torch.Tensor) -> torch.Tensor:
        scores = (q @ q.transpose(-1, -2)) * (scale or q.shape[-1] ** -0.5)
        return scores.softmax(-1) @ q

    return attend


def sdpa(q: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, q, q)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_norm_written_by_hand_is_rounding(dtype: torch.dtype) -> None:
    result = only(layer_norm(1e-5), norm_by_hand(1e-5), drawn(16, 256, dtype=dtype))
    assert result.verdict == "rounding", result.reason
    assert "bits" in result.reason and "bound" in result.reason


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ours", "theirs"), [(1e-5, 1e-4), (1e-6, 1e-5)])
def test_another_eps_is_named_in_a_region_and_as_an_argument(dtype: torch.dtype, ours: float, theirs: float) -> None:
    x = drawn(16, 256, dtype=dtype)
    for candidate in (layer_norm(theirs), norm_by_hand(theirs)):
        result = only(layer_norm(ours), candidate, x)
        assert (result.verdict, codes(result)) == ("semantic", ["other-eps"]), result.reason
        assert f"the candidate computes native_layer_norm with eps {theirs:g} instead of {ours:g}" in result.reason


def test_the_side_with_several_ops_may_be_the_reference() -> None:
    result = only(norm_by_hand(1e-6), layer_norm(1e-5), drawn(16, 256))
    assert codes(result) == ["other-eps"]
    assert "the reference computes native_layer_norm with eps 1e-06" in result.reason


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_forms_are_named(dtype: torch.dtype) -> None:
    x = drawn(16, 256, dtype=dtype)
    result = only(F.gelu, lambda t: F.gelu(t, approximate="tanh"), x)
    assert (result.verdict, codes(result)) == ("semantic", ["gelu-tanh"]), result.reason
    result = only(F.gelu, lambda t: t * torch.sigmoid(1.702 * t), x)
    assert (result.verdict, codes(result)) == ("semantic", ["gelu-quick"]), result.reason


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_biased_std_is_named(dtype: torch.dtype) -> None:
    result = only(lambda t: t.std(-1), lambda t: t.std(-1, correction=0), drawn(16, 256, dtype=dtype))
    assert codes(result) == ["other-variance-correction"], result.reason


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_by_hand_is_rounding_and_another_scale_is_not(dtype: torch.dtype) -> None:
    q = drawn(2, 4, 64, 32, dtype=dtype)
    if why := refused(sdpa, q):
        pytest.skip(why)
    for pair in ((sdpa, attention()), (attention(), sdpa)):
        result = only(*pair, q)
        assert result.verdict == "rounding", result.reason
    result = only(sdpa, attention(1 / math.sqrt(33)), q)
    assert (result.verdict, codes(result)) == ("semantic", ["other-attention-scale"]), result.reason


def test_a_region_whose_values_would_fill_the_memory_is_carried_out_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (drawn(1, 2, 32, 4, seed=seed) for seed in range(3))

    def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.mT * 0.5, -1) @ v

    monkeypatch.setattr(
        sys.modules["whydiff.explain.local_test.examine"], "_ELEMENTS", 1 << 10
    )  # q, k and v fit, their scores do not
    (found,) = results(F.scaled_dot_product_attention, by_hand, q, k, v)
    assert (found.verdict, found.sampled[1]) == ("rounding", 256) and found.sampled[0] < 256, found
    (found,) = results(F.scaled_dot_product_attention, lambda q, k, v: by_hand(q, k, v.flip(-1)).flip(-1), q, k, v)
    assert (found.verdict, "on the way" in found.reason) == ("inconclusive", True), found
    monkeypatch.setattr(sys.modules["whydiff.explain.local_test.examine"], "_ELEMENTS", 1 << 11)
    (found,) = results(F.scaled_dot_product_attention, by_hand, q, k, v)
    assert found.verdict == "rounding", found


def test_a_rounded_table_is_precision_and_other_weights_are_semantic() -> None:
    class Rotary(torch.nn.Module):
        def __init__(self, inv_freq: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("table", inv_freq)

        def forward(self, positions: torch.Tensor) -> torch.Tensor:
            return positions[:, None] * self.table

    table = 10000.0 ** (-torch.arange(0, 32) / 32)
    result = only(Rotary(table), Rotary(table.bfloat16().float()), torch.arange(100.0))
    assert (result.verdict, codes(result)) == ("precision", ["bfloat16-inputs"]), result.reason
    result = only(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), drawn(4, 8))
    assert result.verdict == "semantic"


def test_a_table_stored_in_another_dtype_is_precision() -> None:
    """One side holds the table in bfloat16 and widens it: one op without a counterpart."""
    table, x = drawn(32), drawn(16, 32, seed=1)

    class Scaled(torch.nn.Module):
        def __init__(self, values: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("table", values)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs * self.table.float()

    for pair, side in (((table, table.bfloat16()), "candidate"), ((table.bfloat16(), table), "reference")):
        result = only(*map(Scaled, pair), x)
        assert (result.verdict, codes(result)) == ("precision", ["bfloat16-inputs"]), result.reason
        assert f"the {side} holds the value with bfloat16 rounding" in result.reason


def test_a_cast_on_one_side_only_is_precision() -> None:
    x = drawn(16, 64)
    found = results(lambda t: t @ t.t(), lambda t: (t.bfloat16() @ t.bfloat16().t()).float(), x)
    assert {str(r.verdict) for r in found} == {"precision"}
    assert all("bfloat16" in r.reason for r in found)


def test_other_arguments_are_told() -> None:
    result = only(lambda t: t + 1.5, lambda t: t + 1.25, drawn(8, 8))
    assert result.verdict == "semantic"
    assert "1.5 against 1.25" in result.reason


def test_two_kernels_of_one_product_are_rounding() -> None:
    x, w = drawn(17, 777), drawn(777, 33, seed=1)

    def two_layouts(t: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return t.t().contiguous().t() @ v

    found = results(lambda t, v: t @ v, two_layouts, x, w)
    assert all(r.verdict == "rounding" for r in found)


def test_a_large_output_is_sampled_and_says_so() -> None:
    result = only(F.gelu, lambda t: F.gelu(t, approximate="tanh"), drawn(128, 128))
    judged, outputs = result.sampled
    assert 4096 <= judged <= 4104 and outputs == 128 * 128  # the farthest are among them


def test_ops_paired_wrongly_are_not_called_a_defect() -> None:
    def by_hand(t: torch.Tensor) -> torch.Tensor:
        return 0.5 * t * (1 + torch.erf(t / 2**0.5)) + 1

    found = results(lambda t: F.gelu(t) + 1, by_hand, drawn(16, 256))
    assert found and all(str(r.verdict) in ("inconclusive", "rounding") for r in found)


def test_local_test_of_one_origin_equals_examine() -> None:
    case = case_of(F.gelu, lambda t: F.gelu(t, approximate="tanh"), drawn(16, 16))
    (origin,) = case.localization.origins
    assert local_test(case, origin) == examine(case)[0]


def test_integers_have_nothing_to_round() -> None:
    x = torch.arange(12)
    result = only(lambda t: t * 2, lambda t: t * 3, x)
    assert result.verdict == "inconclusive"
    assert "not rounded" in result.reason


def test_examining_leaves_inputs_and_flags_alone() -> None:
    x = drawn(16, 64)
    before, precision = x.clone(), torch.get_float32_matmul_precision()
    dtype = torch.get_default_dtype()
    examine(case_of(F.gelu, lambda t: F.gelu(t, approximate="tanh"), x))
    assert torch.equal(x, before)
    assert (torch.get_float32_matmul_precision(), torch.get_default_dtype()) == (precision, dtype)


def test_the_outputs_that_differ_most_are_never_left_out_of_a_sample() -> None:
    def written(t: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(t.numel()) == 7, t.exp() * 1.5, t.exp())

    x = drawn(100_000)
    (result,) = results(torch.exp, written, x)
    assert "in float64 the two sides still differ" in result.reason
