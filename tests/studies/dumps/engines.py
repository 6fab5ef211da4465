"""Two engines in one process, watched by plain hooks: transformers' continuous batching and a forward pass."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig

VOCABULARY, NEW = 60, 6
Tokens = list[int]
KWARGS = ("hidden_states", "position_ids")


@contextmanager
def dumped(model: torch.nn.Module, folder: Path) -> Iterator[None]:
    """Write down what every module is given and gives, in order, from whatever thread it runs in."""
    folder.mkdir()
    number = itertools.count()

    def write(name: str, role: str, held: Any) -> None:
        found = held.items() if isinstance(held, dict) else enumerate(held)
        for part, value in found:
            if isinstance(value, torch.Tensor) and value.dim() > 1:
                file = folder / f"{next(number):06d}_{name}.{role}.{part}.safetensors"
                save_file({"value": value.detach().contiguous().clone()}, file)

    def enter(name: str, args: Any, kwargs: dict[str, Any]) -> None:
        write(name, "input", args)
        write(name, "input", {key: kwargs[key] for key in KWARGS if key in kwargs})

    hooks = []
    for name, module in model.named_modules():
        if name:
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: enter(name, args, kwargs), with_kwargs=True
                )
            )
            hooks.append(
                module.register_forward_hook(
                    lambda _, args, out, name=name: write(name, "output", out if isinstance(out, tuple) else (out,))
                )
            )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def model(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=64, **sizes)
    return LlamaForCausalLM(config).eval().to(dtype)  # type: ignore[no-any-return]


def prompts() -> list[Tokens]:
    """Of several lengths, two of one length; the first two begin alike."""
    generator = torch.Generator().manual_seed(1)
    made = [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in (7, 11, 7, 4)]
    made[1][:3] = made[0][:3]
    return made


@contextmanager
def lasting() -> Iterator[None]:
    """The batching looks for garbage several times as it ends: not in what there is by now."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def served(engine: LlamaForCausalLM, asked: Sequence[Tokens], folder: Path) -> list[Tokens]:
    """What continuous batching gives for prompts, all of them at once, dumped while it runs."""
    with dumped(engine, folder), lasting():
        found = engine.generate_batch(
            [list(prompt) for prompt in asked],
            generation_config=GenerationConfig(do_sample=False, max_new_tokens=NEW, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(num_blocks=32, max_batch_tokens=64, page_size=16),
        )
    by_prompt = {tuple(one.prompt_ids): one.generated_tokens for one in found.values()}
    return [list(by_prompt[tuple(prompt)]) for prompt in asked]


def scored(trainer: LlamaForCausalLM, rows: Sequence[Tokens], folder: Path) -> None:
    """A plain forward pass for each sequence, as far as the engine read it."""
    with dumped(trainer, folder), torch.no_grad():
        for row in rows:
            trainer(torch.tensor([row]), position_ids=torch.arange(len(row))[None], use_cache=False)


def both(folder: Path, engine: LlamaForCausalLM, trainer: LlamaForCausalLM) -> tuple[Path, Path]:
    """The two dumps, trainer first: of the tokens that the engine gave."""
    asked = prompts()
    answers = served(copy.deepcopy(engine), asked, folder / "engine")
    scored(trainer, [[*one, *more[:-1]] for one, more in zip(asked, answers, strict=True)], folder / "trainer")
    return folder / "trainer", folder / "engine"
