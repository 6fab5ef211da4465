"""How often is the local test wrong, and how far apart are precisions?

    python -m benchmarks.local_false_alarms             # three seeds, a few minutes
    python -m benchmarks.local_false_alarms --seeds 1

The figures of docs/explanation/local-tests.md. Benign pairs come from tests/explain/local_test/pairs.py, defects from
tests/explain/local_test/defects.py. Nothing is asserted: this is a measurement, not a test.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explain" / "local_test"))

from defects import planted
from pairs import Ops, benign

from whydiff.explain.local_test import judge_outputs
from whydiff.records import Evidence


def numbers(evidence: tuple[Evidence, ...]) -> list[dict[str, float]]:
    """The data of both sides."""
    return [dict(item.data) for item in evidence if "bits" in item.data]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    start, pairs, differing, alarms = time.perf_counter(), 0, 0, []
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    with Ops() as ops:
        for seed in range(seeds):
            for pair in benign(ops, seed):
                pairs += 1
                result = judge_outputs(pair.op, pair.reference, pair.candidate)
                if not (pair.reference.bits != pair.candidate.bits).any():
                    continue
                differing += 1
                if result.verdict.value != "rounding":
                    alarms.append(f"{pair.name}: {result.verdict}, {result.reason}")
                sides = numbers(result.evidence)
                apart = abs(sides[0]["bits"] - sides[1]["bits"])
                found = max(s["bound"] for s in sides), apart, min(s["match_rate"] for s in sides)
                rows[pair.op.name, pair.reference.dtype].append(found)
        seconds = time.perf_counter() - start
        print(f"{pairs} benign pairs, {differing} with different bits, {len(alarms)} false alarms, {seconds:.0f} s")
        print(*alarms, sep="\n")
        print("\n| op | dtype | differing pairs | largest share of the bound | bits apart | lowest match rate |")
        print("|---|---|---|---|---|---|")
        for (name, dtype), values in rows.items():
            worst = np.array(values)
            print(
                f"| {name} | {dtype} | {len(values)} | {worst[:, 0].max():.2f} | {worst[:, 1].max():.1f} "
                f"| {worst[:, 2].min():.3f} |"
            )
        print("\n| defect | verdict | named | bits, reference | bits, candidate | times the bound |")
        print("|---|---|---|---|---|---|")
        for defect in planted(ops, (256, 1024, 4096)):
            result = judge_outputs(defect.pair.op, defect.pair.reference, defect.pair.candidate)
            named = ", ".join(code for item in result.hypotheses for code in item.codes)
            sides = numbers(result.evidence) or [{"bits": math.nan, "bound": math.nan}] * 2
            print(
                f"| {defect.pair.name} | {result.verdict} | {named or '-'} | {sides[0]['bits']:.1f} "
                f"| {sides[1]['bits']:.1f} | {sides[1]['bound']:.2g} |"
            )


if __name__ == "__main__":
    main()
