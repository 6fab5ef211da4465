"""Range audits of real architectures and small programs: each defect at its op, healthy models silent."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import whydiff
from whydiff.errors import TargetError
from whydiff.records import Verdict
from whydiff.studies.ranging import RangeReport, range_audit


def found(report: RangeReport) -> set[tuple[str, str]]:
    return {(cause.code, cause.status) for cause in report.causes}


def small(kind: str, **more: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    config = {
        "llama": transformers.LlamaConfig,
        "bert": transformers.BertConfig,
        "qwen2": transformers.Qwen2Config,
        "vit": transformers.ViTConfig,
    }[kind]
    model = {
        "llama": transformers.LlamaForCausalLM,
        "bert": transformers.BertModel,
        "qwen2": transformers.Qwen2ForCausalLM,
        "vit": transformers.ViTModel,
    }[kind]
    if kind == "vit":
        sizes |= {"image_size": 16, "patch_size": 8}
    if kind == "qwen2":
        sizes["num_key_value_heads"] = 2
    return model(config(**sizes, **more)).eval()


IDS = torch.arange(12).reshape(1, 12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["llama", "bert", "vit"])
def test_healthy_models_raise_no_alarm_and_headroom_is_tabulated(kind: str, dtype: torch.dtype) -> None:
    model = small(kind).to(dtype)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        report = range_audit(model, image if kind == "vit" else IDS)
    assert report.verdict is Verdict.IDENTICAL, report.audit.alarms
    assert not report.causes
    assert len(report.audit.sites) > 20
    assert all(math.isfinite(site.range.headroom()) or not site.range.max_abs for site in report.audit.sites)


def test_a_feed_forward_overflow_hidden_by_a_clamp() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    model = transformers.T5EncoderModel(config).eval()
    with torch.no_grad():
        for block in model.encoder.block:
            block.layer[1].DenseReluDense.wi.weight.mul_(300.0)
            block.layer[1].DenseReluDense.wo.weight.mul_(3000.0)
    with torch.no_grad():
        report = range_audit(model.half(), IDS)
    assert ("OV002", "confirmed") in found(report)
    assert ("OV001", "confirmed") in found(report)
    first = report.audit.alarms[0]
    assert first.kind == "overflow"
    assert "DenseReluDense" in first.site.scope
    hidden = next(cause for cause in report.causes if cause.code == "OV002")
    assert "clamp" in hidden.site


def test_eager_attention_scores_overflow_float16() -> None:
    model = small("qwen2", attn_implementation="eager")
    with torch.no_grad():
        plain = range_audit(model, IDS)
        scores = [s.range.max_abs for s in plain.audit.sites if "self_attn" in s.site.scope and s.site.op == "bmm"][::2]
        for layer, largest in zip(model.model.layers, scores, strict=True):
            root = math.sqrt(9e4 / largest)  # too large as a product, in range once scaled
            layer.self_attn.q_proj.weight.mul_(root)
            layer.self_attn.k_proj.weight.mul_(root)
        report = range_audit(model.half(), IDS)
    assert ("OV003", "confirmed") in found(report)
    late = next(cause for cause in report.causes if cause.code == "OV003")
    assert "self_attn" in late.site
    assert late.experiments[0].method == "rerun"


def test_a_fully_masked_row_and_its_remedy() -> None:
    scores = torch.linspace(-1, 1, 12).reshape(3, 4)
    mask = torch.tensor([[False], [True], [False]]).expand(3, 4)

    def program() -> torch.Tensor:
        return scores.masked_fill(mask, float("-inf")).softmax(-1) @ torch.ones(4, 2)

    report = range_audit(program)
    assert found(report) == {("OV004", "confirmed")}
    assert report.audit.alarms[0].data["fully_masked_rows"] == 1
    partly = torch.tensor([[True, False, False, False]]).expand(3, 4)
    healthy = range_audit(lambda: scores.masked_fill(partly, float("-inf")).softmax(-1))
    assert healthy.verdict is Verdict.IDENTICAL


class OnePassNorm(torch.nn.Module):
    """LayerNorm whose variance is E[x²] − E[x]²."""

    def __init__(self, width: int, spelling: str) -> None:
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(torch.ones(width)), torch.nn.Parameter(torch.zeros(width))
        self.spelling = spelling

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        if self.spelling == "powers":
            variance = x.pow(2).mean(-1, keepdim=True) - mean.pow(2)
        elif self.spelling == "products":
            variance = (x * x).mean(-1, keepdim=True) - mean * mean
        elif self.spelling == "sums":
            variance = ((x * x).sum(-1, keepdim=True) / x.shape[-1]).sub_(mean * mean)
        else:
            variance = torch.rsub(mean * mean, (x.clone() ** 2).mean(-1, keepdim=True))
        return self.weight * (x - mean) * torch.rsqrt(variance.clamp(min=0) + 1e-5) + self.bias


@pytest.mark.parametrize("spelling", ["powers", "products", "sums", "reversed"])
def test_a_norm_by_the_mean_of_squares_is_rewritten_and_measured(spelling: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), OnePassNorm(64, spelling), torch.nn.Linear(64, 4))
    x = torch.randn(8, 16)
    assert range_audit(model, x).verdict is Verdict.IDENTICAL
    with torch.no_grad():
        model[0].bias.add_(3000.0)
    report = range_audit(model, x)
    (cause,) = report.causes
    assert (cause.code, cause.status) == ("FO005", "confirmed")
    (alarm,) = report.audit.alarms
    assert alarm.kind == "one-pass-variance"
    assert alarm.site.scope == "1"
    assert "sub" in alarm.site.op
    y = model[0](x).detach()
    exact = y.double().var(-1, correction=0)
    lost = math.log2(float(y.double().square().mean(-1).max() / exact.max()))
    assert alarm.data["bits_lost"] == pytest.approx(lost, abs=3.0)  # what is left is noise
    (experiment,) = cause.experiments
    assert experiment.method == "rerun"
    wrong = y.square().mean(-1) - y.mean(-1).square()
    before, after = (float(text) for text in experiment.outcome.split(": ")[1].split(" → "))
    assert before == pytest.approx(float((wrong.double() - exact).abs().max() / exact.max()), rel=0.5)
    assert after < 1e-4 < before


def test_an_epsilon_that_vanishes_in_float16() -> None:
    gradient = torch.full((64,), 1e-5).half()

    def adam() -> torch.Tensor:
        second = gradient * gradient
        return gradient / (second.sqrt() + 1e-8)

    report = range_audit(adam)
    kinds = [(alarm.kind, alarm.site.op) for alarm in report.audit.alarms]
    assert kinds == [("underflow", "mul"), ("underflow", "add"), ("overflow", "div")]
    assert [(cause.code, cause.status) for cause in report.causes] == [("OV005", "confirmed")] * 2
    rerun, replay = report.causes[1].experiments
    assert (rerun.method, replay.method) == ("rerun", "replay")
    assert "0 of 64 are zero" in rerun.outcome
    assert "zeros 100 % → 0 %" in replay.outcome


def test_adams_epsilon_in_a_model_of_float16() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).half()
    x = torch.rand(4, 8).half() / 64

    def steps(eps: float) -> Any:
        def run() -> None:
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=eps)
            for _ in range(2):
                optimizer.zero_grad()
                (model(x).float().square().mean() / 64).backward()
                optimizer.step()

        return run

    report = range_audit(steps(1e-8))
    vanished = next(alarm for alarm in report.audit.alarms if alarm.data.get("constant") == 1e-8)
    assert (vanished.site.phase, vanished.site.op) == ("update", "add_")
    assert all(alarm.kind == "underflow" or alarm.data["of_vanished_numbers"] for alarm in report.audit.alarms)
    assert found(report) == {("OV005", "confirmed")}
    rerun = next(e for c in report.causes if c.site == str(vanished.site) for e in c.experiments if e.method == "rerun")
    assert "the alarm is gone" in rerun.outcome
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not any("constant" in alarm.data for alarm in range_audit(steps(1e-4), try_remedies=False).audit.alarms)


def test_backward_and_update_are_audited_and_nothing_is_changed() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.rand(4, 8)
    before = [p.detach().clone() for p in model.parameters()]

    def steps() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    report = range_audit(steps)
    assert {site.site.phase for site in report.audit.sites} == {"forward", "backward", "update"}
    assert report.audit.steps == 4
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not optimizer.state
    assert any(len(site.growth) == 4 for site in report.audit.sites)


def test_a_training_run_that_overflows_says_at_which_steps() -> None:
    weight = torch.ones(4).half()

    def steps() -> torch.Tensor:
        w, root = weight.clone(), torch.nn.Identity()
        for _ in range(12):
            w = root(w) * 4
        return w

    report = range_audit(steps)
    assert report.audit.alarms[0].kind == "overflow"
    assert report.audit.alarms[0].steps == (7, 7)
    assert report.audit.alarms[0].every == (7,)
    assert max(v for _, v in report.audit.sites[-1].growth) == 4.0**7


def test_training_with_loss_scaling_overflows_at_the_steps_that_the_scaler_skips(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 1))
    x, y = torch.randn(16, 8), torch.randn(16, 1)
    skipped = np.zeros(30, bool)  # a list would be put back after the run

    def train() -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18, growth_interval=3)
        for step in range(30):
            with torch.autocast("cpu", dtype=torch.float16):
                prediction = model(x)
            optimizer.zero_grad()
            scaler.scale((prediction.float() - y).square().mean()).backward()
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            skipped[step] = scaler.get_scale() < before

    report = range_audit(train, try_remedies=False)
    kinds = {alarm.kind for alarm in report.audit.alarms}
    assert kinds == {"overflow"}, report.audit.alarms
    steps = sorted({step for alarm in report.audit.alarms for step in alarm.every})
    assert 0 < skipped.sum() < 30
    assert steps == np.flatnonzero(skipped).tolist()
    growing = next(
        site for site in report.audit.sites if site.site.phase == "backward" and site.range.dtype == "float16"
    )
    assert [step for step, _ in growing.growth] == list(range(30))
    report.print(color="never", verbose=1)
    out = capsys.readouterr().out
    assert "Growth over steps" in out
    assert any(mark in out for mark in "▂▃▄▅▆▇")


def test_the_report_is_strict_json_and_readable(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.tensor([300.0]).half()
    report = range_audit(lambda: x * x)
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert ":mul#0" in text and '"verdict": "unstable"' in text
    report.print(color="never")
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[:5]] == ["UNSTABLE:", "where", "why", "proof", "fix"]


def test_a_target_that_raises() -> None:
    with pytest.raises(TargetError):
        whydiff.range_audit(lambda: torch.ones(2) @ torch.ones(3))


def test_a_remedy_that_did_not_help_is_not_advised_and_one_that_was_not_tried_says_so() -> None:
    x = torch.tensor([300.0]).half()
    report = range_audit(lambda: x * x)
    assert "(tried: finite" in dict(report.answer())["fix"]
    (cause,) = report.causes
    for status, said in (("refuted", "nothing that was tried helps"), ("inconclusive", "(untried)")):
        other = replace(report, causes=(replace(cause, status=status, experiments=()),))  # type: ignore[arg-type]
        assert dict(other.answer())["fix"].endswith(said)


def _vanishing(run: Any) -> list[str]:
    return [alarm.site.op for alarm in range_audit(run).audit.alarms if alarm.kind == "underflow"]


def test_zeros_that_come_from_an_infinity_or_a_zero_are_no_underflow() -> None:
    large = torch.linspace(200, 1000, 32).half().reshape(4, 8)
    small, whole = torch.full((4, 8), 1e-5).half(), torch.ones(4, 8).half()
    mask = torch.zeros(8, dtype=torch.bool)
    assert not _vanishing(lambda: large * torch.rsqrt(large.pow(2).mean(-1, keepdim=True)))  # RMS norm: the mean is inf
    assert not _vanishing(lambda: whole / (large * large))
    assert not _vanishing(lambda: whole * mask)
    assert not _vanishing(lambda: whole * torch.zeros(4, 1).half())
    assert not _vanishing(lambda: whole * 0.0)
    assert _vanishing(lambda: small * torch.full((4, 1), 1e-5).half()) == ["mul"]
    assert _vanishing(lambda: small * 1e-5) == ["mul"]
    assert _vanishing(lambda: (small * whole) / (large + 1000)) == ["div"]
