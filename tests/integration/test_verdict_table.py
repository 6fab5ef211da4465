"""The verdict table, from `whydiff.compare` alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from verdict_table import Row, model, rows

import whydiff
from whydiff.records import Diagnosis


def slopes(diagnosis: Diagnosis) -> list[float]:
    found = [e.data["slope"] for o in diagnosis.origins for e in o.evidence if "slope" in e.data]
    return [slope for slope in found if slope is not None]


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.name)
def test_the_table(row: Row) -> None:
    with torch.no_grad():
        diagnosis = whydiff.compare(row.reference, row.candidate, row.x)
    if row.verdict == "rounding" and str(diagnosis.verdict) == "identical":
        return  # zero bits differ with the kernels of this machine; see the test below
    assert str(diagnosis.verdict) == row.verdict, diagnosis.reason
    assert {str(origin.verdict) for origin in diagnosis.origins} == {row.verdict}
    if row.verdict == "rounding":
        assert all(slope > 0.75 for slope in slopes(diagnosis))
        assert "in float64" in diagnosis.reason
    else:
        assert min(map(abs, slopes(diagnosis))) < 0.1


def test_a_batch_that_does_change_bits_is_rounding() -> None:
    torch.manual_seed(1)
    wide, many = model(256).float(), torch.randn(32, 4, 256)
    with torch.no_grad():
        assert not torch.equal(wide(many[:1]), wide(many)[:1]), "this machine's kernels are batch invariant"
        diagnosis = whydiff.compare(lambda x: wide(x[:1]), lambda x: wide(x)[:1], many)
    assert str(diagnosis.verdict) == "rounding", diagnosis.reason
    assert all(slope > 0.75 for slope in slopes(diagnosis))


def test_every_origin_keeps_its_own_verdict() -> None:
    """A benign reordering and a wrong eps in one candidate."""
    torch.manual_seed(1)
    x = torch.randn(4, 16, 64).bfloat16()
    candidate = model(reordered=True)
    candidate.blocks[1].norm2.eps = 1e-3  # type: ignore[union-attr,assignment]
    with torch.no_grad():
        diagnosis = whydiff.compare(model(), candidate, x)
    verdicts = {str(origin.site): str(origin.verdict) for origin in diagnosis.origins}
    assert str(diagnosis.verdict) == "semantic"
    assert {v for site, v in verdicts.items() if "norm2" in site} == {"semantic"}
    assert {v for site, v in verdicts.items() if "norm2" not in site} == {"rounding"}
    assert len(verdicts) >= 3


def test_a_cast_inside_one_program_is_precision() -> None:
    """The same formula, one side through bfloat16: the difference vanishes when casts are lifted."""
    torch.manual_seed(0)
    weight, x = torch.randn(32, 32), torch.randn(8, 32)
    diagnosis = whydiff.compare(
        lambda x: torch.tanh(x @ weight), lambda x: torch.tanh((x @ weight).bfloat16().float()), x
    )
    assert str(diagnosis.verdict) == "precision", diagnosis.reason


def test_a_norm_carried_out_in_bfloat16_is_precision() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 64).bfloat16()

    def wide(x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        return (y * (y.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).bfloat16()

    def narrow(x: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    diagnosis = whydiff.compare(wide, narrow, x)
    assert str(diagnosis.verdict) == "precision", diagnosis.reason


def test_overflow_on_one_side_is_unstable() -> None:
    """(Q Kᵀ) / norm overflows in float16 where (Q / norm) Kᵀ does not."""
    torch.manual_seed(0)
    q = (torch.randn(4, 128) * 64).half()
    k = (torch.randn(4, 128) * 64).half()

    def scaled_first(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (q / 128) @ k.T

    def scaled_last(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (q @ k.T) / 128

    assert not torch.isfinite(scaled_last(q, k)).all()
    diagnosis = whydiff.compare(scaled_first, scaled_last, q, k)
    assert str(diagnosis.verdict) == "unstable", diagnosis.reason


def test_other_weights_are_semantic_and_a_float64_pair_is_judged() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(16, 4).double(), nn.Linear(16, 4).double()
    x = torch.randn(3, 16, dtype=torch.float64)
    with torch.no_grad():
        assert str(whydiff.compare(one, other, x).verdict) == "semantic"
        order = torch.randperm(16)
        diagnosis = whydiff.compare(one, lambda x: x[:, order] @ one.weight[:, order].T + one.bias, x)
    assert str(diagnosis.verdict) in ("rounding", "identical"), diagnosis.reason


def test_what_could_not_be_lifted_is_counted() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 16).bfloat16()
    diagnosis = whydiff.compare(lambda x: x * x.sum().item(), lambda x: x * (x.sum().item() + 1), x)
    assert any("left the program" in count.what for count in diagnosis.not_compared)


def test_a_setting_that_chooses_another_way_is_no_defect() -> None:
    class Chunked(nn.Module):
        def __init__(self, parts: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.parts = parts
            self.weight = nn.Parameter(torch.randn(512, 32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pairs = zip(x.chunk(self.parts, -1), self.weight.chunk(self.parts), strict=True)
            return torch.tanh(sum((a @ b for a, b in pairs), torch.zeros(())) / 20)

    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(1))
    diagnosis = whydiff.compare(Chunked(1), Chunked(4), x)
    assert str(diagnosis.verdict) == "rounding", diagnosis.reason
    (cause,) = (cause for cause in diagnosis.causes if cause.code == "ST006")
    assert (cause.status, str(cause.verdict)) == ("inconclusive", "rounding")
    assert "explains the bits" in cause.reason and cause.experiments[0].status == "confirmed"


def test_such_a_setting_beside_a_defect_is_no_defect_either() -> None:
    class Chunked(nn.Module):
        def __init__(self, parts: int, eps: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.parts = parts
            self.weight = nn.Parameter(torch.randn(512, 32))
            self.norm = nn.LayerNorm(32, eps=eps)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pairs = zip(x.chunk(self.parts, -1), self.weight.chunk(self.parts), strict=True)
            return self.norm(sum((a @ b for a, b in pairs), torch.zeros(())) / 20)  # type: ignore[no-any-return]

    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(1))
    diagnosis = whydiff.compare(Chunked(1, 1e-5), Chunked(4, 1e-3), x)
    assert str(diagnosis.verdict) == "semantic", diagnosis.reason
    status = {str(cause.evidence[0].data.get("attribute")): cause.status for cause in diagnosis.causes}
    assert status["eps"] == "confirmed"
    assert status["parts"] != "confirmed"


def one_pass(x: torch.Tensor) -> torch.Tensor:
    mean = x.mean(-1, keepdim=True)
    return ((x * x).mean(-1, keepdim=True) - mean * mean).clamp(min=0) + 1e-5


def two_pass(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True) + 1e-5


@pytest.mark.parametrize(("mean", "verdict"), [(1000.0, "unstable"), (0.0, "rounding")])
def test_a_formula_that_cancels_is_unstable(mean: float, verdict: str) -> None:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) + mean
    assert str(whydiff.compare(two_pass, one_pass, x).verdict) == verdict
    assert str(whydiff.compare(one_pass, two_pass, x).verdict) == verdict


def test_sums_that_cancel_on_both_sides_are_rounding() -> None:
    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, -x + 1e-7], -1)
    halves = whydiff.compare(lambda x: x.sum(-1), lambda x: x[:, :300].sum(-1) + x[:, 300:].sum(-1), x)
    assert str(halves.verdict) in ("rounding", "identical"), halves.reason


def test_another_function_without_a_common_op_is_semantic() -> None:
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)) + 0.5
    diagnosis = whydiff.compare(
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda x: nn.functional.layer_norm(x, (32,), None, None, 1e-6),
        x,
    )
    assert str(diagnosis.verdict) == "semantic", diagnosis.reason
