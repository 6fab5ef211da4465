"""A port check of a GPT of 12 layers, torch against JAX: right, and with another epsilon in layer 7.

    python -m benchmarks.port_layers [--layers 12]

Prints the verdict, wall and processor seconds, and the machine's load.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from whydiff.studies.port import check_port

WIDTH, HEADS, WORDS, LENGTH = 64, 4, 101, 16


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Gpt(torch.nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.words, self.places = torch.nn.Embedding(WORDS, WIDTH), torch.nn.Embedding(LENGTH, WIDTH)
        self.blocks, self.norm = torch.nn.Sequential(*(Block() for _ in range(layers))), torch.nn.LayerNorm(WIDTH)
        self.head = torch.nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.words(ids) + self.places(torch.arange(ids.shape[1])))))


def port(model: torch.nn.Module, layers: int, *, wrong: int = -1) -> Callable[..., Any]:
    """The same in JAX; ``wrong``: a layer whose first norm has another epsilon."""
    t = {name: jnp.asarray(value.detach().numpy()) for name, value in model.state_dict().items()}

    def norm(x: Any, name: str, epsilon: float = 1e-5) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return centred * scale * t[f"{name}.weight"] + t[f"{name}.bias"]

    def dense(x: Any, name: str) -> Any:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def forward(ids: Any) -> Any:
        x = t["words.weight"][ids] + t["places.weight"][jnp.arange(ids.shape[1])]
        for layer in range(layers):
            at = f"blocks.{layer}"
            h = norm(x, f"{at}.before", 1e-2 if layer == wrong else 1e-5)
            q, k, v = dense(h, f"{at}.qkv").reshape(*x.shape[:2], 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
            scores = q @ k.swapaxes(-1, -2) / np.float32(np.sqrt(WIDTH // HEADS))
            seen = jnp.tril(jnp.ones((ids.shape[1], ids.shape[1]), bool))
            y = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1) @ v
            x = x + dense(y.transpose(0, 2, 1, 3).reshape(x.shape), f"{at}.out")
            h = dense(norm(x, f"{at}.between"), f"{at}.up")
            x = x + dense(jax.nn.gelu(h, approximate=False), f"{at}.down")
        return norm(x, "norm") @ t["head.weight"].T

    return jax.jit(forward)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    layers = parser.parse_args().layers
    torch.manual_seed(0)
    model = Gpt(layers).eval()
    ids = np.arange(2 * LENGTH).reshape(2, LENGTH) * 7 % WORDS
    for what, wrong in (("right", -1), ("another epsilon", 7 % layers)):
        wall, processor = time.perf_counter(), time.process_time()
        with torch.no_grad():
            found = check_port(model, port(model, layers, wrong=wrong), (torch.from_numpy(ids),), (jnp.asarray(ids),))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(f"{what}: {found.verdict}, {found.reason}")
        print(f"  {wall:.1f} s, {processor:.1f} s of processors, load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
