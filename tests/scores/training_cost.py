"""``python -m tests.scores.training_cost [cost [cpu|cuda]|band [MODEL …]]``: the cheap pass's cost, and the band of rounding.

*cost*: a small GPT's training loop plain and looked at, alternately, by processor time and wall time. *band*: three small
models in float32 and under bfloat16 autocast; 20 runs each whose batch is summed in parts, which is the same sum in another
order, against the band of 4 runs rounded at random; and a learning rate that is wrong by 1 %.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from whydiff.capturing.adapters.torch.training.jitter import jittered
from whydiff.capturing.adapters.torch.training.watching import Watching
from whydiff.studies.training.curves import Point, band, curves


class Gpt(nn.Module):
    """A decoder-only transformer."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(512, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 512)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], device=ids.device)
        return self.head(self.blocks(self.embed(ids), mask=mask, is_causal=True))  # type: ignore[no-any-return]


def loop(width: int, layers: int, steps: int, device: str, batch: int = 8, length: int = 128) -> Callable[[], None]:
    def program() -> None:
        torch.manual_seed(0)
        model = Gpt(width, layers).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        ids = torch.randint(0, 512, (batch, length + 1), device=device)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return program


def cost(device: str) -> None:
    """Print the share of time that the cheap pass adds."""
    program = loop(256, 4, 12, device) if device == "cpu" else loop(512, 8, 60, device, 16, 512)
    for look in (False, True):
        _timed(program, look)
    ratios, walls = [], []
    for _ in range(5):
        (plain, wall), (looked, longer) = _timed(program, False), _timed(program, True)
        ratios.append(looked / plain)
        walls.append(longer / wall)
    print(
        f"{device}: processor time {statistics.median(ratios):.3f}, wall time {statistics.median(walls):.3f} of plain"
    )


def _timed(program: Callable[[], None], look: bool) -> tuple[float, float]:
    records: list[Any] = []
    with Watching(records.append) if look else contextlib.nullcontext():
        used, wall = time.process_time(), time.perf_counter()
        program()
        return time.process_time() - used, time.perf_counter() - wall


def models() -> dict[str, Callable[[], nn.Module]]:
    def perceptron() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4))

    def convolutional() -> nn.Module:
        middle = (nn.Conv2d(1, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, stride=2), nn.GELU())
        return nn.Sequential(nn.Unflatten(1, (1, 8)), *middle, nn.Flatten(), nn.Linear(72, 4))

    def attentive() -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        return nn.Sequential(layer, nn.Flatten(), nn.Linear(64, 4))

    return {"perceptron": perceptron, "convolutional": convolutional, "attentive": attentive}


def training(make: Callable[[], nn.Module], narrow: bool, rate: float = 0.05, order: int = 0) -> Callable[[], None]:
    """Thirty steps; with an order the batch is permuted, so that its sums are taken in another order."""

    def program() -> None:
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        inputs, labels = torch.randn(30, 32, 8, 8), torch.randint(0, 4, (30, 32))
        places = torch.randperm(32, generator=torch.Generator().manual_seed(order)) if order else torch.arange(32)
        for x, y in zip(inputs, labels, strict=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                loss = F.cross_entropy(model(x[places]).float(), y[places])
            loss.backward()
            optimizer.step()

    return program


def bands(names: Sequence[str] = (), runs: int = 4, others: int = 20) -> None:
    """Print how many benign runs leave the band, and whether a wrong rate does."""
    chosen = {name: make for name, make in models().items() if not names or name in names}
    for name, make in chosen.items():
        for narrow in (False, True):
            reference = watched(training(make, narrow))
            rounded: list[Any] = []
            for seed in range(runs):
                steps: list[Any] = []
                jittered(training(make, narrow), seed, steps.append)
                rounded.append(steps)

            def left(candidate: list[Any], reference: Any = reference, rounded: Any = rounded) -> Any:
                points = curves(reference, candidate, 0, rounded)
                found = band(points, runs)
                far = max((p.apart / p.band for p in points if p.band), default=0.0)
                return (found.leaves if found else None), far, outside(points)

            benign = [left(watched(training(make, narrow, order=n))) for n in range(1, others + 1)]
            wrong = left(watched(training(make, narrow, rate=0.0505)))
            out = sum(step is not None for step, *_ in benign)
            most = max(far for _, far, _ in benign)
            share = statistics.mean(beyond for *_, beyond in benign)
            print(
                f"{name}, {'bfloat16' if narrow else 'float32'}: outside at {share:.1%} of the steps (stated: "
                f"{1 / (runs + 1):.0%}), {out} of {others} at any (farthest {most:.2f} bands); "
                f"a rate wrong by 1 % leaves it at step {wrong[0]} ({wrong[1]:.0f} bands)",
                flush=True,
            )


def outside(points: Sequence[Point]) -> float:
    """The share of steps at which a run is farther away than the rounded runs were until then."""
    reached, beyond, measured = 0.0, 0, 0
    for point in points:
        if point.band is not None:
            reached = max(reached, point.band)
            beyond += point.apart > reached
            measured += 1
    return beyond / measured if measured else 0.0


def watched(program: Callable[[], None]) -> list[Any]:
    steps: list[Any] = []
    with Watching(steps.append):
        program()
    return steps


if __name__ == "__main__":
    asked = sys.argv[1:] or ["cost", "band"]
    if "cost" in asked:  # on a GPU too, if there is one and no place is named
        there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        for place in [name for name in asked if name in ("cpu", "cuda")] or there:
            cost(place)
    if "band" in asked:
        bands([name for name in asked if name in models()])
