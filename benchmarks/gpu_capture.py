"""On one CUDA device: capture cost, the pipeline on CUDA tensors, and the fourth seed's formulas.

PYTHONPATH=src python benchmarks/gpu_capture.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import whydiff
from whydiff.capturing.adapters.torch.session import Session
from whydiff.cli.demos import megatron


def llama(width: int, layers: int, heads: int) -> torch.nn.Module:
    """A Llama of given shape with random bfloat16 weights."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=16384,
    )
    with torch.device("cuda"):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


def timed(run: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def cost(model: torch.nn.Module, ids: torch.Tensor, pairs: int = 5) -> tuple[float, float, int]:
    """Median ratio of captured to plain, plain seconds, and how many calls were recorded."""
    calls = 0

    def captured() -> None:
        nonlocal calls
        with Session() as session:
            model(ids)
        calls = len(session.calls)

    ratios, plain = [], []
    for number in range(pairs + 1):
        alone, seen = timed(lambda: model(ids)), timed(captured)
        if number:
            ratios.append(seen / alone)
            plain.append(alone)
    return statistics.median(ratios), statistics.median(plain), calls


def main() -> None:
    """Print a small table."""
    print(torch.cuda.get_device_name(), torch.__version__)
    with torch.no_grad():
        for name, shape, tokens in (("135M-shaped", (576, 30, 9), 64), ("1B-shaped", (2048, 16, 32), 2048)):
            model = llama(*shape)
            ids = torch.randint(0, 32000, (1, tokens), device="cuda")
            ratio, plain, calls = cost(model, ids)
            print(f"capture {name}, {tokens} tokens, {calls} calls: x {ratio:.2f} (plain {1e3 * plain:.1f} ms)")
            del model
        model = llama(576, 4, 9)
        other = llama(576, 4, 9)
        other.model.rotary_emb.inv_freq = other.model.rotary_emb.inv_freq.bfloat16().float()
        ids = torch.randint(0, 32000, (1, 32), device="cuda")
        diagnosis = whydiff.compare(model, other, ids)
        print("rounded table:", diagnosis.verdict, diagnosis.reason, [(c.code, c.status) for c in diagnosis.causes])
        weight, x = torch.randn(2048, 4096, device="cuda").bfloat16(), torch.randn(64, 4096, device="cuda").bfloat16()
        alone = whydiff.compare(lambda: x[:1] @ weight.T, lambda: (x @ weight.T)[:1])
        print("row alone and in a batch:", alone.verdict, alone.reason, [(c.code, c.status) for c in alone.causes])
    for line in megatron.run(device="cuda").answer:
        print("megatron:", line)


if __name__ == "__main__":
    main()
