"""Parts of the causes about positions, masks, caches, random numbers, loss counts and compiled code."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters import for_target
from whydiff.explain.causes import by_code
from whydiff.explain.causes._flow import listed_indices
from whydiff.explain.causes.in003 import hidden_by
from whydiff.explain.causes.tr001 import _quotient
from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict


def confirmed(diagnosis: Diagnosis) -> set[str]:
    return {cause.code for cause in diagnosis.causes if cause.status == "confirmed" and not cause.inert}


@pytest.mark.parametrize(
    ("marked", "text"),
    [([0, 1, 2, 7], "0–2, 7"), ([], ""), ([3], "3"), (range(0, 20, 2), "0, 2, 4, 6, 8, 10 and 4 more stretches")],
)
def test_indices_in_words(marked: Any, text: str) -> None:
    where = np.zeros(20, bool)
    where[list(marked)] = True
    assert listed_indices(where) == text


def test_a_mask_is_told_from_a_bias() -> None:
    tiny = float(np.finfo(np.float32).min)
    assert np.array_equal(hidden_by(np.array([0.0, -np.inf, tiny, -1e4]), "float32"), [False, True, True, True])  # type: ignore[arg-type]
    assert hidden_by(np.array([0.0, -0.5, -np.inf]), "float32") is None
    assert hidden_by(np.array([0, 2]), "int64") is None
    assert np.array_equal(hidden_by(np.array([0, 1]), "bool"), [False, True])  # type: ignore[arg-type]


def test_a_ratio_is_named_by_counts_or_not_at_all() -> None:
    counts = {1: "one", 3: "sequences", 21: "tokens", 7: "length"}
    named = _quotient(7.0, counts, 1e-6, {21.0, 3.0})
    assert named == ((21, "tokens"), (3, "sequences"))
    assert _quotient(7.001, counts, 1e-6, set()) is None


@pytest.mark.parametrize("offset", [1, 3])
def test_a_shift_of_rotary_positions_is_rounding(offset: int) -> None:
    frequencies = 1e2 ** -(torch.arange(4, dtype=torch.float32) / 4)
    q, k = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))

    def run(start: int) -> torch.Tensor:
        angles = torch.arange(start, start + 6)[:, None] * frequencies
        cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)

        def turned(x: torch.Tensor) -> torch.Tensor:
            return x * cos + torch.cat([-x[:, 4:], x[:, :4]], -1) * sin

        return torch.softmax(turned(q) @ turned(k).T, -1)

    assert compare(lambda: run(0), lambda: run(offset)).verdict is Verdict.ROUNDING


def test_another_op_read_by_mistake_is_no_stale_cache() -> None:
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))

    def run(which: int) -> torch.Tensor:
        values = torch.tanh(x), torch.sigmoid(x)
        return values[which] @ x

    assert "IN004" not in confirmed(compare(lambda: run(0), lambda: run(1)))


@pytest.mark.parametrize("which", range(3))
def test_exchanged_operands_are_named_so_and_no_stale_cache(which: int) -> None:
    pairs = list(by_code("IN004").impostors())
    assert confirmed(compare(*pairs[which])) == {"FO006"}


@pytest.mark.parametrize("in_place", [False, True])
def test_a_cache_that_is_kept_from_another_request_is_stale(in_place: bool) -> None:
    torch.manual_seed(0)
    keys, prompts, query = torch.nn.Linear(8, 8), torch.randn(3, 5, 8), torch.randn(1, 8)

    def run(late: int) -> torch.Tensor:
        caches, found = [torch.zeros(5, 8) for _ in prompts], []
        for at, prompt in enumerate(prompts):
            key = torch.tanh(keys(prompt))
            caches[at] = caches[at].copy_(key) if in_place else key
            found.append(torch.softmax(query @ caches[max(at - late, 0)].T, -1))
        return torch.cat(found)

    assert confirmed(compare(lambda: run(0), lambda: run(1))) == {"IN004"}


def test_dropout_of_a_module_in_training_mode_is_its_mode() -> None:
    torch.manual_seed(0)
    reference = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 4)).eval()
    diagnosis = compare(reference, copy.deepcopy(reference).train(), torch.randn(4, 8))
    assert confirmed(diagnosis) == {"MD001"}


def _sums_in_float32(graph: Any, _: Any) -> Any:
    def run(*args: Any) -> Any:
        return [y.to(torch.bfloat16) for y in graph(*(x.float() for x in args))]

    return run


def test_capturing_leaves_compiled_code_compiled() -> None:
    def program(x: torch.Tensor) -> torch.Tensor:
        y = torch.sigmoid(x) * x
        return torch.tanh(y) * y + x

    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    compiled = torch.compile(program, backend=_sums_in_float32)
    before = compiled(x)
    assert not torch.equal(before, program(x))
    run = for_target(compiled, (x,)).run(compiled, (x,), {})
    check = run.check(run.capture())
    assert torch.equal(compiled(x), before)
    assert check.deterministic is True
    assert check.unchanged is False
    diagnosis = compare(program, compiled, x)
    assert diagnosis.verdict is Verdict.PRECISION
    # this backend does not listen when it is asked to round in place
    assert [(cause.code, cause.status) for cause in diagnosis.causes] == [("CP001", "located")]
    assert torch.equal(compiled(x), before)


def test_an_expanded_gradient_can_be_resynchronised() -> None:
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(8, 4), torch.randn(6, 8)

    def gradients(divisor: float) -> Any:
        return torch.autograd.grad(linear(x).sum() / divisor, list(linear.parameters()))

    diagnosis = compare(lambda: gradients(2.0), lambda: gradients(4.0))
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert diagnosis.accounted
