"""A small Llama as an engine and as a trainer: real continuous batching in bfloat16 against real forward passes.

The engine is transformers' own (paged attention) with the log-probabilities that it returns; the trainer scores the same
tokens with a plain forward pass. Every mistake is made where people make it: in the sampling settings, the weights, the mask,
the tokens that are sent.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig

SEQUENCES, LONGEST, VOCABULARY = 24, 70, 512
BOS, PAD, EOS, MERGED = 1, 0, 2, 511
Tokens = list[int]
Planted = Mapping[str, Any]


@dataclass
class Rows:
    """What a side writes: one entry for each sequence."""

    tokens: list[Tokens]
    values: list[list[float]]
    extra: dict[str, list[Any]] = field(default_factory=dict)


def model(seed: int) -> LlamaForCausalLM:
    """A float32 model whose next-token entropies are between sure and undecided."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        attn_implementation="sdpa",
    )
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        made.lm_head.weight.mul_(22)
    return made


def moved(base: LlamaForCausalLM, size: float, seed: int) -> LlamaForCausalLM:
    """Other weights: each is moved by ``size`` of its tensor's own magnitude."""
    other, generator = copy.deepcopy(base), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            weight += size * weight.std() * torch.randn(weight.shape, generator=generator) if weight.dim() > 1 else 0
    return other


def served(base: LlamaForCausalLM, noise: str) -> LlamaForCausalLM:
    """The engine's copy: bfloat16; ``fp8``: its products' weights were rounded to float8 with a scale each."""
    engine = copy.deepcopy(base)
    if noise == "fp8":
        with torch.no_grad():
            for name, weight in engine.named_parameters():
                if weight.dim() > 1 and "embed" not in name and "lm_head" not in name:
                    scale = weight.abs().max() / 448
                    weight.copy_((weight / scale).to(torch.float8_e4m3fn).float() * scale)
    return engine.bfloat16()


def generated(engine: LlamaForCausalLM, prompts: Sequence[Tokens], seed: int, **sampling: Any) -> Rows:
    """What continuous batching gives: tokens with their log-probabilities."""
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": LONGEST, "eos_token_id": -1, "pad_token_id": PAD}
    found = copy.deepcopy(engine).generate_batch(
        [list(prompt) for prompt in prompts],
        generation_config=GenerationConfig(**{**settings, **sampling}),
        continuous_batching_config=ContinuousBatchingConfig(
            return_logprobs=True, num_blocks=64, max_batch_tokens=96, page_size=16, seed=seed
        ),
    )
    by_prompt = {tuple(one.prompt_ids): one for one in found.values()}
    own = [by_prompt[tuple(prompt)] for prompt in prompts]
    return Rows([one.generated_tokens for one in own], [one.logprobs for one in own])


@cache
def _generated_once(seed: int, noise: str, prompts: tuple[tuple[int, ...], ...], sampling: tuple[Any, ...]) -> Rows:
    """What the engine with these weights gives, which many cases begin with."""
    return generated(served(model(seed), noise), list(map(list, prompts)), seed, **dict(sampling))


def scores(trainer: LlamaForCausalLM, prompts: Sequence[Tokens], answers: Sequence[Tokens], **how: Any) -> list[Any]:
    """Logits before each answer's token, float32; keywords ``left`` (padding without a mask) and ``whole``."""
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, rows))
    pads = [[PAD] * (longest - len(row)) for row in rows]
    ids = torch.tensor([(p + r if how.get("left") else r + p) for p, r in zip(pads, rows, strict=True)])
    with torch.no_grad():
        logits = torch.cat([trainer(part).logits.float() for part in ids.split(8)])
    begins = [len(pad) if how.get("left") else 0 for pad in pads]
    ends = [begin + len(row) - 1 for begin, row in zip(begins, rows, strict=True)]
    skip = [0 if how.get("whole") else len(prompt) - 1 for prompt in prompts]
    return [one[b + s : e] for one, b, s, e in zip(logits, begins, skip, ends, strict=True)]


def picked(logits: Any, tokens: Tokens, temperature: float = 1.0) -> list[float]:
    """Log-probabilities of tokens, one for each row of the logits."""
    ids = torch.tensor(tokens)[:, None]
    values: list[float] = (logits / temperature).log_softmax(-1).gather(-1, ids)[:, 0].tolist()
    return values


def make(planted: Planted, noise: str, seed: int, folder: Path) -> tuple[Path, Path]:
    """Write the engine's and the trainer's file of one case."""
    base, random = model(seed), torch.Generator().manual_seed(seed)
    sizes = torch.randint(5, 20, (SEQUENCES,), generator=random).tolist()
    sizes = [12] * SEQUENCES if "padded" in planted else sizes
    prompts = [torch.randint(3, VOCABULARY - 1, (n,), generator=random).tolist() for n in sizes]
    of_engine = noise if noise == "fp8" else ""
    rows = _generated_once(seed, of_engine, tuple(map(tuple, prompts)), tuple(planted.get("sampling", {}).items()))
    rows = Rows(list(rows.tokens), list(rows.values))
    bad = [n for n in range(SEQUENCES) if n % 4 == 2]
    if "worker" in planted or "worker sampling" in planted:
        other = served(moved(base, planted.get("worker", 0.0), seed + 1), noise)
        theirs = generated(other, [prompts[n] for n in bad], seed, **planted.get("worker sampling", {}))
        for place, n in enumerate(bad):
            rows.tokens[n], rows.values[n] = theirs.tokens[place], theirs.values[place]
    lengths = torch.randint(30, LONGEST, (SEQUENCES,), generator=random).tolist()
    lengths = [LONGEST if n % 7 == 3 else size for n, size in enumerate(lengths)]
    rows.tokens = [row[:size] for row, size in zip(rows.tokens, lengths, strict=True)]
    rows.values = [row[:size] for row, size in zip(rows.values, lengths, strict=True)]
    if "worker" in planted or "worker sampling" in planted or "named" in planted:
        rows.extra["worker"] = [f"node-{n % 4}" for n in range(SEQUENCES)]
    if "stale" in planted or "steps" in planted:
        rows.extra["step"] = [n // 3 for n in range(SEQUENCES)]
    trainer = _trained(base, planted, noise, seed, prompts, rows, random)
    _written(planted, prompts, rows, trainer)
    names = [f"request-{n}" for n in range(SEQUENCES)]
    order = torch.randperm(SEQUENCES, generator=random).tolist()
    paths = folder / "engine.jsonl", folder / "trainer.jsonl"
    for path, side, places in zip(paths, (rows, trainer), (range(SEQUENCES), order), strict=True):
        lines = [
            {"id": names[n], "token_ids": side.tokens[n], "logprobs": side.values[n]}
            | {key: values[n] for key, values in side.extra.items()}
            for n in places
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def _trained(
    base: LlamaForCausalLM,
    planted: Planted,
    noise: str,
    seed: int,
    prompts: list[Tokens],
    rows: Rows,
    random: torch.Generator,
) -> Rows:
    """The trainer's scores of the engine's tokens, with the mistakes of the trainer."""
    dtype = torch.float32 if noise == "bf16" else torch.bfloat16
    read, answers = [list(prompt) for prompt in prompts], [list(row) for row in rows.tokens]
    if "bos" in planted:
        read = [[BOS, *prompt] for prompt in prompts]
    for n in range(0, SEQUENCES, planted["retokenised"]) if "retokenised" in planted else ():
        at = 6 + n % 9
        answers[n] = [*answers[n][:at], MERGED, *answers[n][at + 2 :]]
    whole = "trainer prompt" in planted
    if "stale" in planted:
        logits: list[Any] = []
        for n in range(0, SEQUENCES, 3):  # eight steps of training; the engine still has the first weights
            later = moved(base, planted["stale"] * (n // 3) / 7, seed + 2).to(dtype)
            logits += scores(later, read[n : n + 3], answers[n : n + 3], whole=whole)
    else:
        logits = scores(base.to(dtype), read, answers, left="padded" in planted, whole=whole)
    if "router" in planted:  # another expert in the last layer, at a few positions
        routed = copy.deepcopy(base).to(dtype)
        with torch.no_grad():
            for weight in routed.model.layers[-1].mlp.parameters():
                weight.copy_(0.3 * torch.randn(weight.shape, generator=random))
        for own, others in zip(logits, scores(routed, read, answers, whole=whole), strict=True):
            chosen = torch.rand(len(own), generator=random) < planted["router"]
            own[chosen] = others[chosen]
    scored = [[*prompt[1:], *answer] if whole else answer for prompt, answer in zip(read, answers, strict=True)]
    temperature = planted.get("temperature", 1.0)
    return Rows(scored, [picked(own, row, temperature) for own, row in zip(logits, scored, strict=True)])


def _written(planted: Planted, prompts: list[Tokens], rows: Rows, trainer: Rows) -> None:
    """Mistakes of what is written."""
    for n in range(SEQUENCES):
        if "shift" in planted:
            by = planted["shift"]
            values = trainer.values[n]
            trainer.values[n] = (
                [*([0.0] * by), *values[: len(values) - by]] if by > 0 else [*values[-by:], *[0.0] * -by]
            )
        if "bos" in planted:
            trainer.tokens[n], trainer.values[n] = [BOS, *trainer.tokens[n]], [-0.7, *trainer.values[n]]
        if "eos" in planted:
            rows.tokens[n], rows.values[n] = [*rows.tokens[n], EOS], [*rows.values[n], -0.2]
        if "zeros" in planted:
            front = prompts[n][-planted["zeros"] :]
            rows.tokens[n], rows.values[n] = front + rows.tokens[n], [0.0] * len(front) + rows.values[n]
            trainer.tokens[n], trainer.values[n] = front + trainer.tokens[n], [-5.5] * len(front) + trainer.values[n]
        if "pads" in planted:
            pads = [PAD] * (LONGEST - len(trainer.tokens[n]))
            front = planted["pads"] == "left"
            zeros = [0.0] * len(pads)
            trainer.tokens[n] = pads + trainer.tokens[n] if front else trainer.tokens[n] + pads
            trainer.values[n] = zeros + trainer.values[n] if front else trainer.values[n] + zeros
        if "unit" in planted:
            trainer.values[n] = [value * planted["unit"] for value in trainer.values[n]]
