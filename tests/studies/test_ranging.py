"""Range audits of real architectures and small programs: each defect at its op, healthy models silent."""

from __future__ import annotations

import json
import math
from typing import Any

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
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 48}  # fmt: skip
    config = {"llama": transformers.LlamaConfig, "bert": transformers.BertConfig,
              "qwen2": transformers.Qwen2Config, "vit": transformers.ViTConfig}[kind]  # fmt: skip
    model = {"llama": transformers.LlamaForCausalLM, "bert": transformers.BertModel,
             "qwen2": transformers.Qwen2ForCausalLM, "vit": transformers.ViTModel}[kind]  # fmt: skip
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


def test_a_variance_from_the_mean_of_squares_loses_its_digits() -> None:
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))

    def program(shift: float) -> Any:
        def run() -> torch.Tensor:
            y = x + shift
            return (y * y).mean(-1) - y.mean(-1) ** 2

        return run

    bad = range_audit(program(3000.0))
    assert [alarm.kind for alarm in bad.audit.alarms] == ["one-pass-variance"]
    assert bad.audit.alarms[0].data["bits_lost"] == pytest.approx(2 * math.log2(3000), abs=1.5)
    assert range_audit(program(0.5)).verdict is Verdict.IDENTICAL


def test_an_epsilon_that_vanishes_in_float16() -> None:
    gradient = torch.full((64,), 1e-5).half()

    def adam() -> torch.Tensor:
        second = gradient * gradient
        return gradient / (second.sqrt() + 1e-8)

    report = range_audit(adam)
    kinds = [alarm.kind for alarm in report.audit.alarms]
    assert kinds == ["underflow", "overflow"]
    assert ("OV001", "confirmed") in found(report)


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
    assert max(v for _, v in report.audit.sites[-1].growth) == 4.0**7


def test_the_report_is_strict_json_and_readable(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.tensor([300.0]).half()
    report = range_audit(lambda: x * x)
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert ":mul#0" in text and '"verdict": "unstable"' in text
    report.print(color="never")
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[:5]] == ["verdict", "where", "why", "proof", "do"]


def test_a_target_that_raises() -> None:
    with pytest.raises(TargetError):
        whydiff.range_audit(lambda: torch.ones(2) @ torch.ones(3))
