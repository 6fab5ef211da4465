"""What capturing a JAX program costs: `python -m benchmarks.jax_capture` (the demo's Gemma, after warm-up).

Plain and captured runs alternate, so that other work on the machine meets both; ratios are medians of the pairs'.
CPU seconds (all threads of the process) hardly depend on other work. Weights are fingerprinted in the first run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax

from whydiff.capturing.adapters import for_framework
from whydiff.cli.demos import gemma

PAIRS = 21


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one run."""
    begin, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - busy


def main() -> None:
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}; medians of {PAIRS} alternating pairs")
    print(
        "| parameters, activations | rows | way | plain ms | captured ms | ratio | ratio of CPU time | compile s "
        "| calls | values seen |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    totals = [0.0] * 4
    for parameters, activations in gemma.RUNGS:
        for name, target in zip(("1", str(gemma.BATCH)), gemma.build(parameters, activations)[:2], strict=True):
            run = for_framework("jax").run(target, (), {})
            trace = run.capture()
            way = trace.note.split("'")[1]
            pairs = [(seconds(run.plain), seconds(lambda run=run, way=way: run.recorded(way))) for _ in range(PAIRS)]
            plain, captured = (statistics.median(pair[side][0] for pair in pairs) for side in range(2))
            wall, busy = (statistics.median(c[kind] / p[kind] for p, c in pairs) for kind in range(2))
            cpu = [statistics.median(pair[side][1] for pair in pairs) for side in range(2)]
            totals = [total + part for total, part in zip(totals, (plain, captured, *cpu), strict=True)]
            writes = [event for call in trace.calls for event in call.writes]
            seen = sum(event.fingerprint is not None for event in writes) / len(writes)
            print(
                f"| {parameters}, {activations} | {name} | {way} | {plain * 1e3:.1f} | {captured * 1e3:.1f} | "
                f"{wall:.1f} | {busy:.1f} | {run.compiled.seconds:.1f} | {len(trace.calls)} | {seen:.0%} |",
                flush=True,
            )
    print(f"all together: {totals[1] / totals[0]:.1f} of wall-clock time, {totals[3] / totals[2]:.1f} of CPU time")


if __name__ == "__main__":
    main()
