"""What a capture costs the host for every op: a Llama of 30 layers so narrow that its ops cost next to nothing.

    python -m benchmarks.host_cost

Least processor time of paired runs, in microseconds per recorded call, on one thread of the CPU. Nothing is asserted.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from whydiff.capturing.adapters.torch.session import Session
from whydiff.numbers.fingerprint import implementation

ROUNDS = 15


class Nothing(TorchDispatchMode):
    """What any dispatch mode costs."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def llama() -> torch.nn.Module:
    """SmolLM2-135M's layers and heads, 36 wide."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=36,
        intermediate_size=48,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


def main() -> None:
    """Print one line per way of running."""
    torch.set_num_threads(1)
    implementation()  # the compiled fingerprint is loaded now
    model, ids = llama(), torch.arange(3)[None]
    session: Any = None

    def plain() -> None:
        model(ids)

    def nothing() -> None:
        with Nothing():
            plain()

    def captured() -> None:
        nonlocal session
        with Session() as session:
            plain()

    def records() -> None:
        _ = session.calls

    ways: dict[str, Callable[[], None]] = {
        "plain": plain,
        "a dispatch mode that does nothing": nothing,
        "captured": captured,
        "records made of it": records,
    }
    least = dict.fromkeys(ways, float("inf"))
    with torch.no_grad():
        for _ in range(ROUNDS):
            gc.collect()
            for name, run in ways.items():
                begin = time.process_time()
                run()
                least[name] = min(least[name], time.process_time() - begin)
    calls = len(session.calls)
    print(f"{calls} calls")
    for name, seconds in least.items():
        print(f"{name:36}{1e6 * seconds / calls:8.1f} us a call")


if __name__ == "__main__":
    main()
