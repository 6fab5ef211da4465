"""How long does it take to reveal and replay an order of summation, and are the bits reproduced?

    python -m benchmarks.reduction_order            # about half a minute
    python -m benchmarks.reduction_order --runs 1

Prints one line per op: seconds for the first tree alone and for everything (best of several runs: other
work only makes them slower), outputs reproduced, trials on cancelling terms reproduced, the share of
trials that trees with shuffled leaves reproduce, and the order. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv2d, linear

from whydiff.capturing.adapters import for_framework
from whydiff.explain.reduction import describe, replay
from whydiff.explain.reduction.trial import columns_like, reveal_at


def recorded(function: Callable[[], Any]) -> Any:
    adapter: Any = for_framework("torch")
    trace = adapter.run(function, (), {}).capture()
    executor = adapter.executor(trace)
    with executor.running():
        for call in trace.calls:
            reads = [executor.read(event) for event in call.reads]
            found = adapter.recorded_sum(executor, call, reads) if call.kind == "compute" else None
            if found is not None:
                return found
            executor.execute(call)
    raise AssertionError("no sum")


def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for rows in (1, 2, 16):
            for width in (256, 1024):
                x, w = torch.randn(rows, 1024).to(dtype), torch.randn(width, 1024).to(dtype)
                yield f"linear {name} M={rows} N={width}", lambda x=x, w=w: linear(x, w)
        x, w, b = (torch.randn(shape).to(dtype) for shape in ((4, 1024), (1024, 512), (512,)))
        yield f"addmm {name}", lambda b=b, x=x, w=w: torch.addmm(b, x, w)
        yield f"mm {name}", lambda x=x, w=w: x @ w
        q, k = torch.randn(8, 64, 64).to(dtype), torch.randn(8, 64, 64).to(dtype)
        yield f"bmm {name}", lambda q=q, k=k: torch.bmm(q, k)
        z = torch.randn(64, 1024).to(dtype)
        yield f"sum over 1024 {name}", lambda z=z: z.sum(-1)
        yield f"mean over 1024 {name}", lambda z=z: z.mean(-1)
        yield f"sum of columns {name}", lambda z=z: z.sum(0)
        yield f"dot {name}", lambda z=z: torch.dot(z[0], z[1])
        image, kernel = torch.randn(2, 16, 9, 9).to(dtype), torch.randn(32, 16, 3, 3).to(dtype)
        yield f"conv2d {name}", lambda image=image, kernel=kernel: conv2d(image, kernel)


def best(function: Callable[[], Any], runs: int) -> tuple[float, Any]:
    seconds, result = [], None
    for _ in range(runs):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="ops whose name contains this")
    options = parser.parse_args()
    runs = options.runs
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, numpy {np.__version__}")
    print("| op | tree, s | all, s | outputs | trials | shuffled | order |\n|---|---|---|---|---|---|---|")
    for name, function in cases():
        if options.only not in name:
            continue
        total = recorded(function)
        tree, _ = best(lambda t=total: reveal_at(t, 0, columns_like(t, 0, 0)), runs)
        seconds, found = best(lambda t=total: replay(t), runs)
        order = "; ".join(
            describe(order.tree, total.plain)
            + (f", {order.product.value}" if total.products and total.dtype == "float32" else "")
            for order in found.orders
        )
        trials = f"{found.trials_matched} of {found.trials} | {found.shuffled:.0%}"
        outputs = f"{found.matched} of {found.sampled} | {trials}"
        print(f"| {name} | {tree:.2f} | {seconds:.2f} | {outputs} | {found.why or order} |", flush=True)


if __name__ == "__main__":
    main()
