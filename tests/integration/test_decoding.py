"""Chunked prefill and a cache against one pass on real weights: rounding in float32 and in bfloat16, a defect semantic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Verdict

LAYERS = 2
"""Of thirty: the first ones, with their real weights."""
PROMPT, SAME = 3, (Verdict.IDENTICAL, Verdict.ROUNDING)


def stepwise(model: Any, shift: int) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The prompt, then one at a time; steps are numbered ``shift`` too high."""

    def decode(input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = model(input_ids[:, :PROMPT], use_cache=True)
        logits, cache = [found.logits], found.past_key_values
        for at in range(PROMPT, input_ids.shape[1]):
            step, where = input_ids[:, at : at + 1], torch.full((1, 1), at + shift)
            logits.append(model(step, past_key_values=cache, use_cache=True, position_ids=where).logits)
        return tuple(logits)

    return decode


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def test_smollm(dtype: torch.dtype, smollm_dir: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm_dir, dtype=dtype, num_hidden_layers=LAYERS).eval()
    ids = transformers.AutoTokenizer.from_pretrained(smollm_dir)("Gravity is the force by", return_tensors="pt")
    with torch.no_grad():
        ways = {"one too high": stepwise(model, 1)}
        study = whydiff.compare_decoding(model, ids.input_ids, chunk=3, prompt=PROMPT, ways=ways, diagnose=False)
        plain = model(ids.input_ids, use_cache=False).logits[0]
    chunks, cache, wrong = study.ways
    for way in (chunks, cache):
        assert way.verdict in SAME, way.reason
        assert [token.first[0] for token in way.tokens] == plain.argmax(-1).tolist()
        assert all(token.double is not None and token.double < 1e-10 for token in way.tokens)
    if dtype is torch.float32:  # a bfloat16 output often hides what a float32 accumulator rounds differently
        assert any(token.max_abs > 0 for way in (chunks, cache) for token in way.tokens)
    assert [token.verdict is Verdict.SEMANTIC for token in wrong.tokens] == [
        token.position >= PROMPT for token in wrong.tokens
    ]
