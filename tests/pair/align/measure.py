"""Print how long `align` takes on large synthetic traces: ``python tests/pair/align/measure.py``."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace

from build import Op, check, model, rescope, trace

from whydiff.pair.align import align

OPS = ("mm", "add", "mul", "softmax", "gelu", "cat", "pow", "mean", "rsqrt", "_to_copy")


def edited(ops: list[Op], edits: int, rng: random.Random) -> list[Op]:
    """Some calls deleted, inserted or replaced."""
    result = list(ops)
    for _ in range(edits):
        n = rng.randrange(len(result))
        what = rng.randrange(3)
        if what == 0:
            del result[n]
        elif what == 1:
            result.insert(n, Op(result[n].scope, rng.choice(OPS)))
        else:
            result[n] = replace(result[n], op="other", kind="compute")
    return result


def unrelated(calls: int, scopes: int, rng: random.Random, prefix: str = "a") -> list[Op]:
    """Random ops in random scopes."""
    return [Op(f"{prefix}.{rng.randrange(scopes)}", rng.choice(OPS), (2, rng.choice((1, 4, 16)))) for _ in range(calls)]


def cases(rng: random.Random) -> Iterator[tuple[str, list[Op], list[Op]]]:
    """What is measured."""
    large = [op for op in model(1250) if op.kind != "view"]
    steps = [op for step in range(60) for op in model(40, step=step)]
    yield "equal", large, large
    yield "300 edits", large, edited(large, 300, rng)
    yield "300 edits, renamed layers", large, edited(rescope(large, "layers", "h"), 300, rng)
    yield "60 steps, 300 edits, renamed layers", steps, edited(rescope(steps, "layers", "h"), 300, rng)
    yield "unrelated, other scopes", unrelated(5000, 300, rng), unrelated(5000, 300, rng, "b")
    yield "unrelated, same 300 scopes", unrelated(5000, 300, rng), unrelated(5000, 300, rng)
    yield "unrelated, one scope", unrelated(5000, 1, rng), unrelated(5000, 1, rng)
    yield "unrelated, one scope", unrelated(20000, 1, rng), unrelated(20000, 1, rng)
    yield "unrelated, cut at anchors", unrelated(40000, 50, rng), unrelated(40000, 50, rng)


if __name__ == "__main__":
    for name, first, second in cases(random.Random(0)):
        left, right = trace(first), trace(second)
        start = time.perf_counter()
        found = align(left, right)
        seconds = time.perf_counter() - start
        check(found, left, right)
        unpaired = f"{len(found.unpaired_reference)} + {len(found.unpaired_candidate)} unpaired"
        print(f"| {name} | {len(first)} × {len(second)} | {seconds:.2f} s |  {unpaired}")
