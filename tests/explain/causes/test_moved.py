"""A step that both sides carry out, at different places, is one cause; one that is left out stays left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import layer_norm

import whydiff
from whydiff.records import Diagnosis, Verdict

torch.manual_seed(5)
W, V, X = torch.randn(8, 8), torch.randn(8, 8), torch.randn(4, 8)


def unscaled(first: bool) -> Any:
    """Gradients of several shapes are clipped together, after or before their scale is removed."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    ((model(X) - 3).square().mean() * 256).backward()

    def unscale() -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.div_(256)

    if first:
        unscale()
    torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    if not first:
        unscale()
    optimizer.step()
    return [parameter.detach() for parameter in parameters]


def normed(first: bool) -> Any:
    """A norm before or after a projection."""
    h = torch.tanh(X @ W)
    return torch.tanh(layer_norm(h, (8,)) @ V if first else layer_norm(h @ V, (8,))) @ W


def added(first: bool) -> Any:
    """A value of the run, added before or after a projection."""
    h, more = torch.tanh(X @ W), torch.sigmoid(X @ V)
    return torch.tanh((h + more) @ V if first else h @ V + more)


def turned(halves: bool) -> Any:
    """Pairs of a rotation as halves, which are joined, or as neighbours, which are stacked."""
    angles = torch.outer(torch.arange(8.0), torch.tensor([1.0, 0.5, 0.2, 0.1]))
    cos, sin, h = angles.cos(), angles.sin(), V @ W
    if halves:
        cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
        return torch.tanh(h * cos + torch.cat([-h[:, 4:], h[:, :4]], -1) * sin)
    cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
    pairs = torch.stack([-h[:, 1::2], h[:, ::2]], -1).flatten(-2)
    return torch.tanh(h * cos + pairs * sin)


def compared(run: Any, reference: bool = True) -> Diagnosis:
    return whydiff.compare(lambda: run(reference), lambda: run(not reference))


def seen(found: Diagnosis) -> list[tuple[str, str]]:
    return [(cause.code, cause.status) for cause in found.causes if cause.status != "refuted"]


@pytest.mark.parametrize("reference", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("run", [unscaled, normed, added])
def test_a_step_at_another_place_is_one_cause_that_is_moved(run: Any, reference: bool) -> None:
    found = compared(run, reference)
    assert found.verdict is Verdict.SEMANTIC
    assert seen(found) == [("FO008", "confirmed")]
    assert "at another place" in found.causes[0].says
    names = {item.name for item in found.causes[0].interventions}
    assert names == {"insert-step", "remove-step"}


@pytest.mark.parametrize("reference", [True, False], ids=["halves", "neighbours"])
def test_what_another_op_makes_of_the_same_values_is_not_left_out(reference: bool) -> None:
    found = compared(turned, reference)
    assert found.verdict is Verdict.SEMANTIC
    assert ("FO007", "confirmed") not in seen(found)
    assert {"FO004", "FO008"} & {code for code, _ in seen(found)}


def left_out(run: Any) -> Diagnosis:
    return whydiff.compare(lambda: run(True), lambda: run(False))


def among_norms(normed: bool) -> Any:
    """Both sides normalise before and after; one step between is left out."""
    h = layer_norm(torch.tanh(X @ W), (8,))
    h = torch.tanh(h @ V)
    h = layer_norm(h, (8,)) if normed else h
    return layer_norm(torch.tanh(h @ W), (8,)) @ V


def beside_others(normed: bool) -> Any:
    """The same op stands in the midst of another formula, too, without a counterpart on either side."""
    h = torch.tanh(X @ W)
    gate = layer_norm(h, (8,)).exp() if normed else layer_norm(h.exp(), (8,))
    h = torch.tanh(h @ V)
    return (layer_norm(h, (8,)) if normed else h) @ W, torch.tanh(gate @ V)


def other_share(divided: bool) -> Any:
    """Both sides divide later, by another number."""
    h = torch.tanh(X @ W)
    h = h / 8 if divided else h
    h = torch.tanh(h @ V)
    return (h / 2 + 1 / 2) @ W


def other_value(more: bool) -> Any:
    """Both sides add values; one of them is not added."""
    h, one, two = torch.tanh(X @ W), torch.sigmoid(X @ V), torch.sin(X)
    h = torch.tanh((h + one if more else h) @ V)
    return torch.tanh((h + two) @ W)


@pytest.mark.parametrize(("run", "code"), [(among_norms, "FO007"), (other_share, "FO003"), (other_value, "FO007")])
def test_a_step_that_is_left_out_is_told_though_the_op_stands_elsewhere(run: Any, code: str) -> None:
    found = left_out(run)
    assert found.verdict is Verdict.SEMANTIC
    assert seen(found) == [(code, "confirmed")]


def test_a_step_that_is_left_out_is_told_beside_one_that_is_moved() -> None:
    found = left_out(beside_others)
    assert found.verdict is Verdict.SEMANTIC
    assert ("FO007", "confirmed") in seen(found)


def test_a_factor_that_may_stand_anywhere_is_no_cause() -> None:
    def run(first: bool) -> Any:
        h = torch.tanh(X @ W)
        return torch.tanh((h * 4) @ V if first else (h @ V) * 4)

    found = left_out(run)
    assert found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)
    assert not [code for code, _ in seen(found) if code.startswith("FO")]
