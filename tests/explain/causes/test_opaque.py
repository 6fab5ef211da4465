"""Programs of which a part cannot be carried out in float64, or not be executed again."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict

X = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
W = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))


@torch.library.custom_op("whydiff_tests::scaled", mutates_args=())
def scaled(x: torch.Tensor, floor: float, dtype: str) -> torch.Tensor:
    values = x.numpy().astype(dtype)
    size = np.sqrt(np.square(values).mean(-1, keepdims=True) + floor)
    return torch.from_numpy((values / size).astype(np.float32))


def status(found: Diagnosis) -> list[tuple[str, str]]:
    return [(cause.code, cause.status) for cause in found.causes]


def test_another_argument_of_an_op_that_float64_cannot_judge_is_named_and_proven() -> None:
    found = compare(lambda: scaled(X, 1e-6, "float32") @ W, lambda: scaled(X, 0.5, "float32") @ W)
    assert found.verdict is Verdict.SEMANTIC
    assert status(found) == [("FO008", "confirmed")]


def test_an_op_that_computes_more_exactly_inside_is_rounding() -> None:
    found = compare(lambda: scaled(X, 1e-6, "float32") @ W, lambda: scaled(X, 1e-6, "float64") @ W)
    assert found.verdict is Verdict.ROUNDING
    assert status(found) == []


def by_numpy(way: str) -> Any:
    values = torch.tanh(X @ W).numpy()
    if way == "half":
        values = values.astype(np.float16).astype(np.float32)
    total = np.cumsum(values, -1) if way != "back" else values.sum(-1, keepdims=True) - np.cumsum(values[:, ::-1], -1)
    if way == "back":
        total = np.concatenate([total[:, ::-1][:, 1:], values.sum(-1, keepdims=True)], -1)
    return torch.sigmoid(torch.from_numpy(total + (0.01 if way == "shifted" else 0.0)).float())


@pytest.mark.parametrize(
    ("way", "verdict", "causes"),
    [
        ("back", Verdict.ROUNDING, []),
        ("half", Verdict.PRECISION, [("IN001", "confirmed")]),
        ("shifted", Verdict.SEMANTIC, [("IN001", "confirmed")]),
    ],
)
def test_numbers_of_numpy_are_judged_by_their_size(way: str, verdict: Verdict, causes: list[Any]) -> None:
    found = compare(lambda: by_numpy(""), lambda: by_numpy(way))
    assert found.verdict is verdict
    assert status(found) == causes


def test_sparse_products_without_a_common_op_are_judged_by_plain_reruns() -> None:
    big = torch.where(X > 0, X, 0.0)
    found = compare(lambda: big @ W, lambda: torch.sparse.mm(big.flip(1).to_sparse(), W.flip(0)))
    assert found.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), found.reason
    assert not [count for count in found.not_compared if count.what.startswith("cause ")]


def test_a_step_before_what_cannot_be_executed_again_is_not_called_inert() -> None:
    def run(centred: bool) -> Any:
        rated = torch.where(X > 0, X, 0.0)
        if centred:
            rated = torch.where(rated > 0, rated - rated.mean(1, keepdim=True), 0.0)
        return torch.tanh(torch.sparse.mm(rated.to_sparse_csr(), W))

    found = compare(lambda: run(True), lambda: run(False))
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.inert) for cause in found.causes] == [("FO007", False)]


def test_a_clamp_that_keeps_a_logarithm_finite_is_named() -> None:
    def run(clamped: bool) -> Any:
        share = torch.relu(X @ W)
        return torch.log(share.clamp(min=1e-9) if clamped else share)

    found = compare(lambda: run(True), lambda: run(False))
    assert found.verdict is Verdict.UNSTABLE
    assert status(found) == [("FO007", "confirmed")]


def on_a_thread(call: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.mark.parametrize(("shift", "verdict"), [(0.5, Verdict.SEMANTIC), (0.0, Verdict.IDENTICAL)])
def test_what_runs_on_other_threads_is_judged_by_its_outputs_and_by_what_is_put_back(
    shift: float, verdict: Verdict
) -> None:
    torch.manual_seed(0)
    reference = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.BatchNorm1d(16)).eval()
    candidate = copy.deepcopy(reference)
    candidate[2].running_mean[3] += shift
    x = torch.randn(4, 8)
    found = compare(lambda: on_a_thread(lambda: reference(x)), lambda: on_a_thread(lambda: candidate(x)))
    assert found.verdict is verdict
    if shift:
        assert [(c.code, c.status) for c in found.causes] == [("ST002", "confirmed")]
        assert "ST002" not in found.reason and "buffer-differs" in found.reason


def test_another_dtype_of_what_runs_on_another_thread_is_precision() -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(64, 8), torch.randn(4, 64)

    def cast(run: Any) -> Any:
        with torch.no_grad(), torch.autocast("cpu", torch.float16):
            return run()

    found = compare(lambda: cast(lambda: model(x)), lambda: cast(lambda: on_a_thread(lambda: model(x).detach())))
    assert found.verdict is Verdict.PRECISION
    other = compare(lambda: cast(lambda: model(x)), lambda: cast(lambda: on_a_thread(lambda: model(x).detach() * 1.5)))
    assert other.verdict is Verdict.SEMANTIC


def test_what_another_thread_computes_is_not_refuted_by_what_is_put_in_after_it() -> None:
    torch.manual_seed(0)
    reference = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.BatchNorm1d(16)).eval()
    candidate = copy.deepcopy(reference)
    candidate[2].running_mean[3] += 0.5
    x = torch.randn(4, 8)
    found = compare(lambda: on_a_thread(lambda: reference(x)), lambda: on_a_thread(lambda: candidate(x)) * 1.3)
    assert found.verdict is Verdict.SEMANTIC
    assert ("ST002", "inconclusive") in status(found)
    assert "confirmed" not in {cause.status for cause in found.causes}
