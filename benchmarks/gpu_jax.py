"""JAX on an accelerator: `python -m benchmarks.gpu_jax [--small]`.

1. The first seed in one line: a bfloat16 matrix–vector product with K = 2048, alone and under ``vmap``.
2. The ladder of precisions for a Gemma of 2B shape (18 layers, width 2048, MLP 16384, one KV head, random weights,
   12 tokens and 1, batch 8 against 1), compiled and operation by operation (a notebook without ``jax.jit``).
3. A whydiff diagnosis of a two-layer one, operation by operation in bfloat16, as the seed's author ran it.

Prints Markdown tables. Needs penzai for the last two; ``--small`` takes two layers everywhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import time

import jax
import jax.numpy as jnp
import numpy as np

from whydiff.cli.demos import gemma
from whydiff.pipeline import Options, compare

K, ROWS, OUT = 2048, 32, 2048
SHAPE = gemma.Size(layers=18, width=2048, hidden=16384, heads=8, vocabulary=32_000)
SHORT = gemma.Size(layers=2, width=2048, hidden=16384, heads=8, vocabulary=32_000)


def bits(array: jax.Array) -> np.ndarray:
    host = np.asarray(array)
    return host.view(f"u{host.dtype.itemsize}")


def matrix_vector() -> None:
    print("\n## A product of a matrix and a vector, alone and under vmap\n")
    print("| dtype | K | rows | elements of row 0 that differ | max abs | reruns equal | verdict | origins | SH001 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for dtype in (jnp.bfloat16, jnp.float32):
        w = jax.random.normal(jax.random.key(0), (OUT, K)).astype(dtype)
        x = jax.random.normal(jax.random.key(1), (ROWS, K)).astype(dtype)
        product = jax.jit(lambda row, w=w: w @ row)
        many = jax.jit(jax.vmap(lambda row, w=w: w @ row))
        one, row = product(x[0]), many(x)[0]
        again = (bits(product(x[0])) == bits(one)).all() and (bits(many(x)[0]) == bits(row)).all()
        far = np.abs(np.asarray(one, np.float64) - np.asarray(row, np.float64)).max()
        single = x[:1]
        diagnosis = compare(lambda: many(single), lambda: many(x), options=Options())  # noqa: B023
        proof = [f"{c.status}" for c in diagnosis.causes if c.code == "SH001"]
        sites = ", ".join(str(o.site) for o in diagnosis.origins) or "none"
        print(
            f"| {jnp.dtype(dtype).name} | {K} | {ROWS} | {(bits(one) != bits(row)).mean():.1%} | {far:.2e} | {bool(again)} | "
            f"{diagnosis.verdict} | {sites} | {', '.join(proof) or '–'} |",
            flush=True,
        )


def ladder(size: gemma.Size) -> None:
    print(f"\n## Gemma, {size.layers} layers, width {size.width}, MLP {size.hidden}, batch {gemma.BATCH} against 1\n")
    print(
        "| run | tokens | parameters | activations | logits that differ | max abs | flips | reruns equal "
        "| row by row equal | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for compiled, tokens in ((True, gemma.TOKENS), (False, gemma.TOKENS), (True, 1), (False, 1)):
        for parameters, activations in gemma.RUNGS:
            begin = time.perf_counter()
            rung = gemma.climb(parameters, activations, size, compiled, tokens)
            print(
                f"| {'compiled' if compiled else 'op by op'} | {tokens} | {parameters} | {activations} | "
                f"{rung.different:.1%} | {rung.max_abs:.2e} | {rung.flips} | {rung.repeats} | {rung.one_by_one} | "
                f"{time.perf_counter() - begin:.0f} |",
                flush=True,
            )


def diagnosed(size: gemma.Size, activations: str, tokens: int) -> None:
    print(
        f"\n## Diagnosis, {size.layers} layers, op by op, bfloat16 parameters, {activations} activations, "
        f"{tokens} tokens\n"
    )
    begin = time.perf_counter()
    alone, batched, _ = gemma.build("bfloat16", activations, size, False, tokens)
    diagnosis = compare(alone, batched, options=Options())
    print(
        f"verdict {diagnosis.verdict}: {diagnosis.reason}\n\n{len(diagnosis.origins)} origins in "
        f"{time.perf_counter() - begin:.0f} s; accounted: {diagnosis.accounted}\n"
    )
    for name, side in zip(("reference", "candidate"), diagnosis.sides, strict=True):
        print(f"- {name}: {side.observer}")
    for note in diagnosis.notes:
        print(f"- {note}")
    for origin in diagnosis.origins[:12]:
        print(f"- {origin.site}: {origin.verdict}")
    for cause in diagnosis.causes:
        print(f"- {cause.code} {cause.status}")
        for evidence in cause.evidence:
            print(f"  - {evidence.statement}")
        for experiment in cause.experiments:
            print(f"  - {experiment.status}: {experiment.outcome}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="two layers everywhere")
    parser.add_argument("--diagnosis", action="store_true", help="the third part alone")
    asked = parser.parse_args()
    small = asked.small
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind} ({device.platform})")
    if not asked.diagnosis:
        matrix_vector()
    if importlib.util.find_spec("penzai") is None:
        print("\npenzai is not installed: the ladder is left out")
        return
    if not asked.diagnosis:
        ladder(SHORT if small else SHAPE)
    tiny = gemma.Size(layers=1, width=256, hidden=512, heads=4, vocabulary=512)
    for activations, tokens in (("bfloat16", 1), ("float32", gemma.TOKENS)):
        diagnosed(tiny if device.platform == "cpu" else SHORT, activations, tokens)


if __name__ == "__main__":
    main()
