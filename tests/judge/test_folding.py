"""A stored product against a computed one: rounding, unless it is the product of something else."""

import torch
import torch.nn.functional as F

import whydiff
from whydiff.records import Verdict


def made(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHT, DOWN, UP, X = made(32, 32, seed=1) / 6, made(4, 32, seed=2) / 6, made(32, 4, seed=3) / 2, made(6, 32, seed=4)


def apart(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(F.linear(x, WEIGHT) + 2 * F.linear(F.linear(x, DOWN), UP))


def stored(factor: float) -> whydiff.Diagnosis:
    merged = WEIGHT + factor * UP @ DOWN
    return whydiff.compare(apart, lambda x: torch.tanh(F.linear(x, merged)), X)


def test_a_merged_adapter_is_rounding_and_nothing_is_confirmed_against_it() -> None:
    diagnosis = stored(2.0)
    assert diagnosis.verdict is Verdict.ROUNDING
    assert "one side stores what the other computes" in diagnosis.reason
    assert not [cause for cause in diagnosis.causes if cause.status == "confirmed"]


def test_an_adapter_merged_with_a_slightly_wrong_factor_is_no_rounding() -> None:
    assert stored(2.0001).verdict is Verdict.SEMANTIC


def test_a_folded_batch_norm_is_rounding() -> None:
    norm = torch.nn.BatchNorm1d(32).eval()
    with torch.no_grad():
        for tensor, seed in ((norm.weight, 5), (norm.bias, 6), (norm.running_mean, 7)):
            tensor.copy_(made(32, seed=seed))
        norm.running_var.copy_(made(32, seed=8) ** 2 + 0.5)
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight, bias = WEIGHT * scale[:, None], norm.bias - norm.running_mean * scale
        diagnosis = whydiff.compare(lambda x: norm(F.linear(x, WEIGHT)), lambda x: F.linear(x, weight, bias), X)
    assert diagnosis.verdict is Verdict.ROUNDING


def test_one_unit_in_the_last_place_of_a_weight_is_still_named() -> None:
    other = WEIGHT.clone()
    other[3, 3] = torch.nextafter(other[3, 3], torch.tensor(9.0))
    diagnosis = whydiff.compare(lambda x: F.linear(x, WEIGHT), lambda x: F.linear(x, other), X)
    assert diagnosis.verdict is not Verdict.ROUNDING


def test_infinity_on_one_side_only_is_never_rounding() -> None:
    x = 60 * made(6, 20, seed=9)
    diagnosis = whydiff.compare(lambda x: torch.softmax(x, -1), lambda x: x.exp() / x.exp().sum(-1, keepdim=True), x)
    assert diagnosis.verdict is Verdict.UNSTABLE
