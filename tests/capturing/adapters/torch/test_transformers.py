"""Random small models of transformers: forward and full training steps replay bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[5, 9, 17, 4, 33, 21, 8], [2, 40, 11, 3, 7, 19, 25]])
SMALL = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": 48, "n_embd": 16, "n_layer": 2, "n_head": 2}
T5 = {"vocab_size": 48, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2}
VIT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = {"image_size": 16, "patch_size": 8}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", "LlamaConfig", {**SMALL, **HEADS, **TOKENS}),
    "BERT": ("BertForMaskedLM", "BertConfig", {**SMALL, "num_attention_heads": 2}),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, **TOKENS}),
    "T5": ("T5ForConditionalGeneration", "T5Config", {**T5, "decoder_start_token_id": 0}),
    "Mixtral": ("MixtralForCausalLM", "MixtralConfig", {**SMALL, **HEADS, **TOKENS, "num_local_experts": 3}),
    "Gemma-2": ("Gemma2ForCausalLM", "Gemma2Config", {**SMALL, **HEADS, **TOKENS, "head_dim": 8, "sliding_window": 4}),
    "ViT": ("ViTForImageClassification", "ViTConfig", {**VIT, **IMAGE}),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    "AdamW one by one": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, foreach=False),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, fused=True),
}


def build(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model, config, arguments = MODELS[name]
    built = getattr(transformers, model)(getattr(transformers, config)(**arguments))
    if name == "ViT":
        return built, {"pixel_values": torch.randn(2, 3, 16, 16), "labels": torch.tensor([0, 1])}
    return built, {"input_ids": IDS, "labels": IDS}


@pytest.mark.parametrize("name", MODELS)
def test_forward(name: str, replayed: Callable[..., Any]) -> None:
    model, inputs = build(name)
    with torch.no_grad():
        found = replayed(model.eval(), **inputs)
    assert found.faithful, (found.failed, found.unfaithful)
    assert (found.observer.deterministic, found.observer.unchanged) == (True, True)


@pytest.mark.parametrize("name", MODELS)
def test_inference_mode_and_autocast(name: str, replayed: Callable[..., Any]) -> None:
    model, inputs = build(name)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = replayed(model.eval(), **inputs)
    assert found.faithful, (found.failed, found.unfaithful)
    assert (found.observer.deterministic, found.observer.unchanged) == (True, True)


def train(name: str, optimizer: str, replayed: Callable[..., Any], reentrant: bool | None = None) -> Any:
    model, inputs = build(name)
    model.train()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    updates = OPTIMIZERS[optimizer](model.parameters())

    def step(**inputs: torch.Tensor) -> Any:
        updates.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        updates.step()
        return loss, list(model.parameters())

    step(**inputs)  # so that the optimizer has a state
    found = replayed(step, **inputs)
    assert found.faithful, (found.failed, found.unfaithful)
    assert (found.observer.deterministic, found.observer.unchanged) == (True, True)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_with_dropout_and_clipping(name: str, replayed: Callable[..., Any]) -> None:
    found = train(name, "AdamW", replayed)
    calls = [call for call in found.trace.calls if call.kind == "compute"]
    assert {call.site.phase for call in calls} == {"forward", "backward", "update"}
    forward = {call.site.scope for call in calls if call.site.phase == "forward"}
    backward = {call.site.scope for call in calls if call.site.phase == "backward"}
    assert len(backward) > 5 and backward <= forward
    names = {leaf.name for leaf in found.trace.leaves if leaf.role == "attribute"}
    assert any(name.startswith("AdamW.") and name.endswith(".exp_avg") for name in names)


@pytest.mark.parametrize("optimizer", sorted(set(OPTIMIZERS) - {"AdamW"}))
def test_other_optimizers(optimizer: str, replayed: Callable[..., Any]) -> None:
    train("Llama", optimizer, replayed)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["Llama", "GPT-2"])
def test_gradient_checkpointing(name: str, reentrant: bool, replayed: Callable[..., Any]) -> None:
    train(name, "AdamW", replayed, reentrant)


@pytest.mark.parametrize("sample", [False, True])
def test_generate_counts_a_step_per_token(sample: bool, replayed: Callable[..., Any]) -> None:
    model, _ = build("Llama")
    model.eval()

    def generate(ids: torch.Tensor) -> Any:
        return model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=sample)

    found = replayed(generate, IDS[:1])
    assert found.faithful
    assert {call.site.step for call in found.trace.calls} == {0, 1, 2, 3}
    first = [c.site for c in found.trace.calls if c.site.scope == "model.layers.0.mlp.up_proj" and c.kind == "compute"]
    assert [(site.step, site.occurrence) for site in first] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_modules_alone(captured: Callable[..., Any]) -> None:
    model, inputs = build("Llama")
    with torch.no_grad():
        trace = captured(model.eval(), level="module", input_ids=inputs["input_ids"])
    assert {call.kind for call in trace.calls} == {"module", "return"}
    scopes = [call.site.scope for call in trace.calls if call.kind == "module"]
    assert scopes[-1] == "" and scopes.index("model.layers.0.mlp.up_proj") < scopes.index("model.layers.0")
