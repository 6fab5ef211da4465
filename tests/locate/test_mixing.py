from __future__ import annotations

import pytest
import torch
from torch import nn

from whydiff.errors import ReplayError
from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict


def left_out(diagnosis: Diagnosis) -> str:
    return "\n".join(c.reason for c in diagnosis.not_compared if c.what == "values without a counterpart")


WEIGHT = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def batch() -> torch.Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(2))


def test_a_total_over_the_batch_is_no_origin() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        h = x @ WEIGHT
        h.sum(0).tanh()  # a statistic of the batch that is logged
        return h * 2

    diagnosis = compare(lambda x: run(x[:1]), run, batch())
    assert diagnosis.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), diagnosis.reason
    assert "sum" not in {origin.site.op for origin in diagnosis.origins}


def test_gradients_of_a_batch_are_the_sum_of_its_halves() -> None:
    model = nn.Linear(6, 3)

    def whole(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(model(x).pow(2).mean(), list(model.parameters()))

    def halves(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = [torch.autograd.grad(model(part).pow(2).mean() / 2, list(model.parameters())) for part in x.chunk(2)]
        return tuple(a + b for a, b in zip(*parts, strict=True))

    diagnosis = compare(whole, halves, batch())
    assert diagnosis.verdict is Verdict.ROUNDING, diagnosis.reason
    assert "a total over all of them" in left_out(diagnosis)


def test_gradients_that_are_not_averaged_are_a_defect() -> None:
    model = nn.Linear(6, 3)

    def whole(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(model(x).pow(2).mean(), list(model.parameters()))

    def halves(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = [torch.autograd.grad(model(part).pow(2).mean(), list(model.parameters())) for part in x.chunk(2)]
        return tuple(a + b for a, b in zip(*parts, strict=True))

    assert compare(whole, halves, batch()).verdict is Verdict.SEMANTIC


def grouped(x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
    """Rows sorted by a choice, worked on, and put back."""
    chosen = (x @ WEIGHT).argmax(-1)
    order = chosen.argsort(stable=True)
    worked = (x[order] @ WEIGHT) * factor
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return worked[back]


def test_an_order_of_all_rows_is_no_origin() -> None:
    diagnosis = compare(lambda x: grouped(x[:2]), lambda x: grouped(x)[:2], batch())
    assert diagnosis.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), diagnosis.reason
    assert "orders all of them" in left_out(diagnosis)
    assert {origin.site.op for origin in diagnosis.origins} <= {"mm", "index"}


def test_an_order_that_cannot_be_tried_out_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(value: object) -> object:
        raise ReplayError("it cannot be executed apart")

    monkeypatch.setattr("whydiff.locate.mixing._CHANGES", (fails,))
    diagnosis = compare(lambda x: grouped(x[:2]), lambda x: grouped(x)[:2], batch())
    assert diagnosis.origins and "orders all of them" not in left_out(diagnosis)


def test_what_follows_a_total_has_no_counterpart_until_both_runs_come_close_again() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        total = (x.abs() + 1).sum(0)  # of 3 rows and of 4: less than the total itself apart
        (total * 2).sqrt()  # logged
        return x * 2

    (count,) = [
        one
        for one in compare(lambda x: run(x[:3]), lambda x: run(x)[:3], batch()).not_compared
        if one.what == "values without a counterpart"
    ]
    assert count.count == 3, "the total, its double, the root of that"


def test_a_defect_behind_an_order_of_all_rows_is_found() -> None:
    diagnosis = compare(lambda x: grouped(x[:2]), lambda x: grouped(x, 1.01)[:2], batch())
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert diagnosis.origins


def test_rows_that_influence_each_other_are_an_origin() -> None:
    norm = nn.BatchNorm1d(6, affine=False)
    diagnosis = compare(lambda x: norm(x[:3]), lambda x: norm(x)[:3], batch())
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert "native_batch_norm" in {origin.site.op for origin in diagnosis.origins}
