"""A training step of a small GPT, compiled against uncompiled: how long the answer takes, and what it is.

    PYTHONPATH=src:. python -m benchmarks.compiled_step              # two layers, width 64: a few minutes
    PYTHONPATH=src:. python -m benchmarks.compiled_step --profile    # and the 25 functions that took longest

Forward, backward and optimizer; the outputs are the loss and every parameter after the step. The pair is compared twice in
one process. Nothing is asserted: this is a measurement.
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import pstats
import resource
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

import whydiff

WIDTH, HEADS, WORDS, TOKENS, ROWS = 64, 4, 128, 32, 2


class Block(torch.nn.Module):
    """Attention and a feed-forward layer, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.together, self.back = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One block: [rows, tokens, width]."""
        heads = self.together(self.before(x)).reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + self.back(mixed)
        return x + self.down(F.gelu(self.up(self.after(x))))


class GPT(torch.nn.Module):
    """Embeddings, blocks, a norm and a head; gives the loss of the next token."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.words, self.places = torch.nn.Embedding(WORDS, WIDTH), torch.nn.Embedding(TOKENS, WIDTH)
        self.blocks = torch.nn.Sequential(*(Block() for _ in range(layers)))
        self.norm, self.head = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The mean loss of predicting each token from those before it."""
        x = self.blocks(self.words(ids) + self.places.weight)
        return F.cross_entropy(self.head(self.norm(x))[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def step(layers: int, *, compiled: bool) -> Callable[[], list[torch.Tensor]]:
    """A step of AdamW on fixed ids, from the same beginning at every call."""
    torch.manual_seed(0)
    model, ids = GPT(layers), torch.randint(0, WORDS, (ROWS, TOKENS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    kept, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())

    def once() -> torch.Tensor:
        loss = model(ids)
        loss.backward()
        optimizer.step()
        return loss

    program = torch.compile(once) if compiled else once

    def run() -> list[torch.Tensor]:
        model.load_state_dict(kept)
        optimizer.load_state_dict(state)
        optimizer.zero_grad()
        loss = program()
        found = [loss.detach(), *(p.detach().clone() for p in model.parameters())]
        model.load_state_dict(kept)
        return found

    return run


def processor() -> float:
    """Processor seconds of this process and of the compilers that it started."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Compare the step twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    plain, compiled = step(given.layers, compiled=False), step(given.layers, compiled=True)
    begin, used = time.perf_counter(), processor()
    compiled()
    print(f"the step itself compiled in {time.perf_counter() - begin:.0f} s ({processor() - used:.0f} processor s)")
    for number in range(2):
        begin, used = time.perf_counter(), processor()
        with cProfile.Profile() as profile:
            if not (given.profile and number):
                profile.disable()
            found = whydiff.compare(plain, compiled)
        print(
            f"compare {number + 1}: {time.perf_counter() - begin:.0f} s, {processor() - used:.0f} processor s, "
            f"{found.verdict}, {[(cause.code, cause.status, cause.says) for cause in found.causes]}",
            flush=True,
        )
        print(f"    {found.reason}")
    if given.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(25)


if __name__ == "__main__":
    main()
