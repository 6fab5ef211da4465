"""What capturing a JAX program costs: `python -m benchmarks.jax_capture` (the demo's Gemma, after warm-up)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax

from whydiff.adapters import for_framework
from whydiff.demos import gemma


def seconds(work: Callable[[], object], times: int = 7) -> float:
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def main() -> None:
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}; medians of 7")
    print("| parameters, activations | rows | way | plain ms | captured ms | ratio | compile s | calls | values seen |")
    print("|---|---|---|---|---|---|---|---|---|")
    for parameters, activations in gemma.RUNGS:
        for name, target in zip(("1", str(gemma.BATCH)), gemma.build(parameters, activations)[:2], strict=True):
            run = for_framework("jax").run(target, (), {})
            trace = run.capture()
            way = trace.note.split("'")[1]
            plain = seconds(run.plain)
            captured = seconds(lambda run=run, way=way: run.recorded(way))
            writes = [event for call in trace.calls for event in call.writes]
            seen = sum(event.fingerprint is not None for event in writes) / len(writes)
            print(f"| {parameters}, {activations} | {name} | {way} | {plain * 1e3:.1f} | {captured * 1e3:.1f} | "
                  f"{captured / plain:.1f} | {run.compiled.seconds:.1f} | {len(trace.calls)} | {seen:.0%} |")  # fmt: skip


if __name__ == "__main__":
    main()
