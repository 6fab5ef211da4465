"""A stored product against a computed one: rounding, unless it is the product of something else."""

from collections.abc import Callable
from typing import Any

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


def convolved(folded: bool, eps: float = 1e-5) -> Callable[[], Any]:
    torch.manual_seed(0)
    conv, norm, head = torch.nn.Conv2d(3, 6, 3, bias=False), torch.nn.BatchNorm2d(6), torch.nn.Conv2d(6, 2, 1)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(1e-4, 1e-3)
        scale = norm.weight / (norm.running_var + eps).sqrt()
        other = torch.nn.Conv2d(3, 6, 3)
        other.weight.copy_(conv.weight * scale[:, None, None, None])
        other.bias.copy_(norm.bias - norm.running_mean * scale)
    first, second = (other, torch.nn.Identity()) if folded else (conv, norm)
    model = torch.nn.Sequential(first, second, torch.nn.ReLU(), head).eval().requires_grad_(False)
    return lambda: model(made(2, 3, 8, 8, seed=5))


def test_a_convolution_with_a_folded_norm_of_small_variances_is_rounding() -> None:
    diagnosis = whydiff.compare(convolved(False), convolved(True))
    assert diagnosis.verdict is Verdict.ROUNDING
    assert not [cause for cause in diagnosis.causes if cause.status == "confirmed"]


def test_a_norm_that_was_folded_without_its_epsilon_is_named_with_the_weight() -> None:
    diagnosis = whydiff.compare(convolved(False), convolved(True, eps=0.0))
    assert diagnosis.verdict is Verdict.SEMANTIC
    acting = {cause.code: cause.status for cause in diagnosis.causes if cause.status in ("confirmed", "located")}
    assert acting == {"FO008": "located"}
    assert ("ST001", "inconclusive") in {
        (cause.code, cause.status) for cause in diagnosis.causes
    }  # folded, and alone farther


def scaled(folded: bool, factor: float = 1.0) -> Callable[[], Any]:
    """A scale and a shift behind a transposed convolution, which one side folded into it."""
    conv, other = (torch.nn.ConvTranspose2d(3, 5, 3).requires_grad_(False) for _ in range(2))
    scale, shift = made(5, seed=11).exp(), made(5, seed=12)
    conv.weight.copy_(made(3, 5, 3, 3, seed=13))
    conv.bias.copy_(made(5, seed=14))  # type: ignore[union-attr]
    other.weight.copy_(conv.weight * (factor * scale)[:, None, None])
    other.bias.copy_(conv.bias * scale + shift)  # type: ignore[union-attr,operator]

    def apart(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(conv(x) * scale[:, None, None] + shift[:, None, None])

    def together(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(other(x))

    program = together if folded else apart
    return lambda: program(made(2, 3, 6, 6, seed=15))


def test_what_is_folded_into_a_convolution_is_named_and_not_proven_of_any_tensor() -> None:
    diagnosis = whydiff.compare(scaled(False), scaled(True))
    assert diagnosis.verdict is Verdict.ROUNDING, diagnosis.reason
    top = diagnosis.causes[0]
    assert (top.code, top.status) in {("PR007", "inconclusive"), ("PR007", "located")}, diagnosis.causes


def test_what_is_folded_with_another_factor_is_not() -> None:
    diagnosis = whydiff.compare(scaled(False), scaled(True, factor=1.001))
    assert diagnosis.verdict is Verdict.SEMANTIC, diagnosis.reason
    assert "PR007" not in {cause.code for cause in diagnosis.causes}
