"""A number that ops are given as it is, or as one minus it or its powers, is one cause; unrelated numbers are several."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whydiff
from whydiff.explain.arguments import follows

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def adam(beta: float, rate: float = 0.1) -> Any:
    """A weight after three steps of Adam, written out."""

    def run() -> Any:
        weight, second = torch.ones(5), torch.zeros(5)
        for step in range(1, 4):
            gradient = X.T @ (X @ weight - 1)
            second = beta * second + (1 - beta) * gradient * gradient
            weight = weight - gradient * rate / ((second / (1 - beta**step)).sqrt() + 1e-8)
        return weight

    return run


def mixed(first: float, second: float) -> Any:
    return lambda: torch.tanh(X * first) + torch.sin(X.square()) * second


def acting(*sides: Any) -> list[tuple[str, str]]:
    return [(c.code, c.says) for c in whydiff.compare(*sides).causes if c.status == "confirmed"]


def test_a_rate_and_its_corrections_are_one_cause() -> None:
    ((code, says),) = acting(adam(0.999), adam(0.99))
    assert code == "FO008" and "0.999 in the reference and 0.99 in the candidate" in says


def test_two_shares_that_sum_to_one_are_one_cause() -> None:
    assert len(acting(mixed(0.3, 0.7), mixed(0.4, 0.6))) == 1


def test_numbers_that_do_not_follow_from_each_other_are_several() -> None:
    assert len(acting(mixed(0.3, 0.7), mixed(0.4, 0.65))) == 2
    assert len(acting(adam(0.999), adam(0.99, 0.2))) == 2


def test_places_that_happen_to_sum_to_one_are_several() -> None:
    def along(first: int, second: int) -> Any:
        return lambda: torch.tanh(X).softmax(first).cumsum(second)

    assert not any("one number" in says for _, says in acting(along(1, 0), along(0, 1)))


class Average(torch.nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Any) -> Any:
        return torch.tanh(x).mul(1 - self.rate).add(x.square(), alpha=self.rate)


def test_a_setting_is_behind_one_minus_it() -> None:
    ((code, _),) = acting(lambda: Average(0.1)(X), lambda: Average(0.01)(X))
    assert code == "ST006"


@pytest.mark.parametrize(
    ("change", "same"),
    [((0.5, 0.6), True), ((0.5, 0.4), True), ((0.75, 0.64), True), ((0.75, 0.65), False), ((0.6, 0.5), False)],
)
def test_what_follows(change: tuple[float, float], same: bool) -> None:
    assert follows(change, (0.5, 0.6)) is same


def test_a_factor_left_out_of_weights_and_of_few_numbers_is_one_cause() -> None:
    def run(decayed: bool) -> Any:
        weights, bias = X.clone(), torch.tensor([0.5, 0.25])
        for value in (weights, bias) if decayed else ():
            value.mul_(0.99)
        return torch.tanh(weights), torch.tanh(bias)

    ((code, says),) = acting(lambda: run(False), lambda: run(True))
    assert code == "FO003" and "0.99" in says
