"""Reported programs against their labels: ``python -m tests.scores.compiled [ISSUE …] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from tests.scores.compiled.reported import CASES, Case

import whydiff
from whydiff.capturing.adapters import for_target
from whydiff.errors import WhydiffError
from whydiff.explain.ladder import apart, numbers

VISIBLE = 1e-3
"""What was reported as another function differs by more than this share of its size; below it, rounding is left of it."""
COMPONENTS = {
    "traced": "dynamo",
    "aot_eager": "aot",
    "aot_eager_decomp_partition": "decomposition",
    "inductor": "inductor",
    "stale": "stale",
}


def measured(case: Case) -> dict[str, Any]:
    """What whydiff says of one case; ``reproduces`` false: the two programs agree here, by plain runs."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    began = time.monotonic()
    row: dict[str, Any] = {"issue": case.issue, "wanted": [case.component, case.verdict, case.item]}
    try:
        reference, candidate = case.make()
        plain = [numbers(for_target(side).run(side, (), {}).anchor()) for side in (reference, candidate)]
        row["reproduces"] = apart(*plain) > (VISIBLE if case.verdict == "semantic" else 0)
        if row["reproduces"]:
            row |= said(whydiff.compare(reference, candidate))
    except (WhydiffError, RuntimeError) as error:
        row |= {"reproduces": None, "raised": f"{type(error).__name__}: {error}"[:300]}
    return row | {"seconds": round(time.monotonic() - began, 1)}


def said(found: Any) -> dict[str, Any]:
    """Verdict, component and causes of a diagnosis."""
    data = [evidence.data for cause in found.causes for evidence in cause.evidence if "component" in evidence.data]
    ladder = data[0] if data else {"component": "", "part": "", "item": ""}
    component = COMPONENTS.get(ladder["component"], ladder["component"])
    if ladder["part"] == "random":
        component = "random"
    return {
        "verdict": str(found.verdict),
        "component": component,
        "part": ladder["part"],
        "item": ladder["item"],
        "causes": [[cause.code, cause.status] for cause in found.causes],
        "reason": found.reason[:300],
    }


def summed(rows: list[dict[str, Any]]) -> str:
    """The figures."""
    ran = [row for row in rows if row["reproduces"]]
    component = sum(row["component"] == row["wanted"][0] for row in ran)
    verdict = sum(row["verdict"] == row["wanted"][1] for row in ran)
    named = [row for row in ran if row["wanted"][2]]
    item = sum(row["item"].startswith(row["wanted"][2]) for row in named)
    others = [str(row["issue"]) for row in rows if not row["reproduces"]]
    return (
        f"{len(ran)} of {len(rows)} reproduce (not: {', '.join(others) or 'none'}); component right {component} of "
        f"{len(ran)}, verdict right {verdict} of {len(ran)}, op as the bisector names it {item} of {len(named)}"
    )


def main() -> None:
    """Run the chosen cases; rows are kept in the file, and a run goes on from there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("issues", nargs="*", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
    known = {row["issue"] for row in rows}
    for case in CASES:
        if case.issue in known or (given.issues and case.issue not in given.issues):
            continue
        rows.append(measured(case))
        print(json.dumps(rows[-1]), flush=True)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1))
    print(summed(rows))


if __name__ == "__main__":
    main()
