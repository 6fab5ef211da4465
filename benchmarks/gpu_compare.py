"""On one CUDA device: seconds to an answer.

    PYTHONPATH=src:. python -m benchmarks.gpu_compare                   # everything, some minutes
    PYTHONPATH=src:. python -m benchmarks.gpu_compare table batch       # only: table | batch | step | attention | megatron
    PYTHONPATH=src:. python -m benchmarks.gpu_compare --profile batch   # and where the time goes

Each is answered twice, the second time with warm caches; `attention` (8B) once. Nothing is asserted: this is a measurement.
"""

from __future__ import annotations

import cProfile
import faulthandler
import functools
import pstats
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.gpu_capture import GIB, SHAPES, llama

import whydiff
from whydiff.cli.demos import megatron


class Step(torch.nn.Module):
    """One training step of a small Llama, in float32 or under autocast."""

    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.model, self.autocast = llama((576, 1536, 6, 9, 3, 8192), torch.float32), autocast
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.autocast):
            loss = self.model(ids, labels=ids).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach(), self.model.model.layers[0].mlp.down_proj.weight.detach().clone()


def table() -> tuple[Any, ...]:
    """The second seed: a rotary table that stays float32 where weights are cast, and one that is cast with them."""
    kept, cast = llama(SHAPES["135M"]), llama(SHAPES["135M"])
    width = 64
    kept.model.rotary_emb.inv_freq = 1 / 10000 ** (torch.arange(0, width, 2, device="cuda").float() / width)
    assert cast.model.rotary_emb.inv_freq.dtype is torch.bfloat16
    return kept, cast, torch.randint(0, 32000, (1, 64), device="cuda")


def batch() -> tuple[Any, ...]:
    """A 1B shape, row 0 of 8."""
    large = llama(SHAPES["1B"])
    ids = torch.randint(0, 32000, (8, 128), device="cuda")
    return lambda x: large(x[:1]).logits, lambda x: large(x).logits[:1], ids


def step() -> tuple[Any, ...]:
    """A training step in float32 and under autocast."""
    return Step(False), Step(True), torch.randint(0, 8192, (2, 64), device="cuda")


def attention() -> tuple[Any, ...]:
    """An 8B shape with fused attention and with attention written out, 2048 tokens, the same weights."""
    fused = llama((4096, 14336, 32, 32, 8, 128256))
    ids = torch.randint(0, 32000, (1, 2048), device="cuda")

    def written_out(x: torch.Tensor) -> Any:
        fused.set_attn_implementation("eager")
        try:
            return fused(x).logits
        finally:
            fused.set_attn_implementation("sdpa")

    return lambda x: fused(x).logits, written_out, ids


PAIRS: dict[str, tuple[str, Callable[[], tuple[Any, ...]], int]] = {
    "table": ("a table rounded to bfloat16, 135M", table, 2),
    "batch": ("1B, batch 1 against 8", batch, 2),
    "step": ("a training step, float32 against autocast, 6 layers", step, 2),
    "attention": ("8B, sdpa against eager, 2048 tokens", attention, 1),
}


def answered(name: str, *compared: Any) -> None:
    """Print the answer to one pair, its seconds and the device's memory."""
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    diagnosis = whydiff.compare(*compared)
    seconds, peak = time.perf_counter() - begin, torch.cuda.max_memory_allocated() / GIB
    causes = [(cause.code, cause.status) for cause in diagnosis.causes[:3]]
    print(f"compare, {name}: {seconds:.1f} s, {diagnosis.verdict}, {causes}, at most {peak:.1f} GiB", flush=True)


def profiled(run: Callable[[], None]) -> None:
    """Print where a run is every ten seconds, and where its time went, by function."""
    watch = cProfile.Profile()
    faulthandler.dump_traceback_later(10, repeat=True)
    watch.runcall(run)
    faulthandler.cancel_dump_traceback_later()
    for order in ("cumulative", "tottime"):
        pstats.Stats(watch).strip_dirs().sort_stats(order).print_stats(70 if order == "cumulative" else 25)


def main() -> None:
    """Answer the pairs that were asked for."""
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}")
    chosen = [name for name in sys.argv[1:] if not name.startswith("-")] or [*PAIRS, "megatron"]
    for name in [name for name in chosen if name in PAIRS]:
        text, made, times = PAIRS[name]
        with torch.set_grad_enabled(name == "step"):
            for turn in range(times):
                compared = made()
                run = functools.partial(answered, text, *compared)
                profiled(run) if "--profile" in sys.argv and turn == times - 1 else run()
                del compared, run
                torch.cuda.empty_cache()
    for line in megatron.run(device="cuda").answer() if "megatron" in chosen else ():
        print("megatron:", line)


if __name__ == "__main__":
    main()
