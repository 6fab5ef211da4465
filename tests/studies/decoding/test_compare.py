"""Chunks, caches and left padding: runs of other shapes that should be (or should not be) the same function."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Verdict

transformers = pytest.importorskip("transformers")
SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)
LENGTH, PAD = 12, 5


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def llama(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config).eval().to(dtype)


def absolute() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=97, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    return transformers.GPT2LMHeadModel(config).eval()


def ids() -> torch.Tensor:
    return torch.randint(0, 97, (1, LENGTH), generator=torch.Generator().manual_seed(1))


def in_chunks(model: Any, tokens: torch.Tensor, chunks: list[int]) -> torch.Tensor:
    cache, logits = None, []
    for chunk in tokens.split(chunks, 1):
        found = model(chunk, past_key_values=cache, use_cache=True)
        cache = found.past_key_values
        logits.append(found.logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunks", [[7, 5], [11, 1]], ids=["chunked prefill", "cache"])
def test_one_pass_against_chunks_is_no_defect(dtype: torch.dtype, chunks: list[int]) -> None:
    model, tokens = llama(dtype), ids()
    found = whydiff.compare(lambda: model(tokens, use_cache=False).logits, lambda: in_chunks(model, tokens, chunks))
    plain = torch.equal(model(tokens, use_cache=False).logits, in_chunks(model, tokens, chunks))
    assert found.verdict in SAME, found.reason
    assert (found.outputs[0][1].status == "agrees" if found.outputs else True) == plain


def test_a_cache_that_is_forgotten_is_a_defect() -> None:
    model, tokens = llama(), ids()
    found = whydiff.compare(
        lambda: model(tokens, use_cache=False).logits,
        lambda: torch.cat([model(part, use_cache=False).logits for part in tokens.split(6, 1)], 1),
    )
    assert found.verdict is Verdict.SEMANTIC


def padded(model: Any, tokens: torch.Tensor, positions: bool) -> torch.Tensor:
    pad = torch.zeros(1, PAD, dtype=torch.long)
    mask = torch.cat([pad, torch.ones_like(tokens)], 1)
    given = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if positions else {}
    found = model(torch.cat([pad, tokens], 1), attention_mask=mask, use_cache=False, **given)
    return found.logits[:, PAD:]


@pytest.mark.parametrize("positions", [False, True])
def test_left_padding_with_learned_positions(positions: bool) -> None:
    model, tokens = absolute(), ids()
    found = whydiff.compare(
        lambda: model(tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits,
        lambda: padded(model, tokens, positions),
    )
    if positions:
        assert found.verdict in SAME, found.reason
    else:
        assert found.verdict is Verdict.SEMANTIC, found.reason
        assert not any(cause.code.startswith("SH") and cause.status == "confirmed" for cause in found.causes)


@pytest.mark.parametrize("positions", [False, True])
def test_left_padding_with_rotary_positions_is_the_same_function(positions: bool) -> None:
    """Rotary attention sees differences of positions only: shifting all of them changes no exact result."""
    model, tokens = llama(), ids()
    found = whydiff.compare(
        lambda: model(tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits,
        lambda: padded(model, tokens, positions),
    )
    assert found.verdict in SAME, found.reason


@pytest.mark.parametrize(("make", "verdict"), [(absolute, Verdict.SEMANTIC), (llama, Verdict.ROUNDING)])
def test_left_padding_without_positions_against_with_them(make: Any, verdict: Verdict) -> None:
    """One padded batch, numbered by the model from the padding on, or by the caller from the first real token on."""
    model, tokens = make(), ids()
    found = whydiff.compare(lambda: padded(model, tokens, True), lambda: padded(model, tokens, False))
    assert found.verdict is verdict, found.reason
    if verdict is Verdict.SEMANTIC:
        assert "IN002" in {cause.code for cause in found.causes if cause.status in ("confirmed", "located")}
