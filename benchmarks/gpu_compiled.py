"""A compiled Llama against itself uncompiled: how long the answer takes, and what it is.

    PYTHONPATH=src:. python -m benchmarks.gpu_compiled                 # 135M, bfloat16, on the CUDA device
    PYTHONPATH=src:. python -m benchmarks.gpu_compiled --profile       # and the 25 functions that took longest
    PYTHONPATH=src:. python -m benchmarks.gpu_compiled --device cpu --shape small

The same pair is compared several times in one process. The first time compiles the kernels that experiments need; a
later one is *warm*. Nothing is asserted: this is a measurement.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.gpu_capture import SHAPES, llama

import whydiff

SMALL = (64, 128, 2, 4, 2, 512, 3)
MODES = {"default": None, "cuda-graphs": "reduce-overhead", "max-autotune": "max-autotune"}


def pair(
    shape: tuple[int, ...], device: str, tokens: int, mode: str | None
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The plain and the compiled program, on the same weights and ids."""
    model = llama(shape, torch.bfloat16, device)
    compiled = torch.compile(model, mode=mode)
    ids = torch.randint(0, shape[5], (1, tokens), device=device)
    return lambda: model(ids, use_cache=False).logits, lambda: compiled(ids, use_cache=False).logits


def settled(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def answered(number: int, programs: tuple[Callable[[], Any], Callable[[], Any]], device: str) -> None:
    """One comparison, with its wall and processor seconds, verdict and causes."""
    begin, processor = settled(device), time.process_time()
    diagnosis = whydiff.compare(*programs)
    seconds, processor = settled(device) - begin, time.process_time() - processor
    causes = [(cause.code, cause.status) for cause in diagnosis.causes]
    how = "first use" if not number else "warm"
    print(f"compare {number + 1} ({how}): {seconds:.1f} s, {processor:.1f} processor s, {diagnosis.verdict}, {causes}")
    for line in (diagnosis.reason, *(e.statement for cause in diagnosis.causes for e in cause.evidence)):
        print(f"    {line[:400]}", flush=True)


def main() -> None:
    """Compare the pair as often as was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--shape", default="135M", choices=(*SHAPES, "small"))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--mode", default="default", choices=MODES)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="the 25 functions with most time of the last comparison")
    given = parser.parse_args()
    name = torch.cuda.get_device_name() if given.device == "cuda" else "the processor"
    print(f"{given.shape}, {given.tokens} tokens, mode {given.mode}, on {name}, torch {torch.__version__}", flush=True)
    with torch.no_grad():
        programs = pair(
            SMALL if given.shape == "small" else SHAPES[given.shape], given.device, given.tokens, MODES[given.mode]
        )
        begin = settled(given.device)
        before = programs[1]().clone()
        print(f"the program itself compiled in {settled(given.device) - begin:.1f} s", flush=True)
        for number in range(given.times):
            with cProfile.Profile() as profile:
                if not given.profile or number < given.times - 1:
                    profile.disable()
                answered(number, programs, given.device)
        print(f"the compiled program's bits after it: {'the same' if torch.equal(programs[1](), before) else 'others'}")
    if given.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(25)


if __name__ == "__main__":
    main()
