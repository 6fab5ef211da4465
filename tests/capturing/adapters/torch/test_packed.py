"""Tensors that packed weights keep: named, read by the op that takes the object, restored, and put back."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Verdict

X = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))


def _packed(bias: float = 0.0, scale: float = 1.0, static: bool = False) -> Any:
    torch.manual_seed(1)
    model: Any = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
    with torch.no_grad():
        model[2].bias[1] += bias
        model[0].weight.mul_(scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if static:
            model = torch.nn.Sequential(torch.ao.quantization.QuantStub(), model, torch.ao.quantization.DeQuantStub())
            model.qconfig = torch.ao.quantization.default_qconfig
            prepared = torch.ao.quantization.prepare(model.eval())
            prepared(X)
            return torch.ao.quantization.convert(prepared)
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)


def _run(model: Any) -> Any:
    def run() -> Any:
        with torch.no_grad():
            return model(X)

    return run


@pytest.mark.parametrize("static", [False, True])
def test_another_bias_inside_packed_weights_is_named_and_proven(static: bool) -> None:
    reference, candidate = _packed(static=static), _packed(bias=0.5, static=static)
    before = [_run(model)() for model in (reference, candidate)]
    found = whydiff.compare(_run(reference), _run(candidate))
    assert found.verdict is Verdict.SEMANTIC
    named = [(cause.code, cause.status) for cause in found.causes if cause.code == "ST001"]
    assert named == [("ST001", "confirmed")], found.causes
    assert all(torch.equal(_run(m)(), kept) for m, kept in zip((reference, candidate), before, strict=True))


def test_the_same_packed_weights_are_identical() -> None:
    reference = _packed()
    assert whydiff.compare(_run(reference), _run(copy.deepcopy(reference))).verdict is Verdict.IDENTICAL


def test_other_weights_in_a_layout_of_their_own_are_not_taken_for_the_bias() -> None:
    found = whydiff.compare(_run(_packed()), _run(_packed(scale=1.5)))
    assert found.verdict not in (Verdict.IDENTICAL, Verdict.ROUNDING)
    assert "ST001" not in [cause.code for cause in found.causes]
