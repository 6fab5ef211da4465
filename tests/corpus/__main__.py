"""``python -m tests.corpus [NAME …] [--half …] [--json FILE]``: run the corpus, print the confusion table."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tests.corpus.cases import PARTS, Planted, cases, judge

from whydiff.pipeline import compare
from whydiff.records import Verdict


@dataclass
class Row:
    """What one case gave."""

    name: str
    half: str
    defect: bool
    seconds: float
    verdict: str
    right: bool
    family: bool | None
    wrong: tuple[str, ...]
    missed: bool
    causes: tuple[str, ...]
    reason: str


def run(planted: Planted) -> Row:
    """Diagnose one case. An exception is a row as well: verdict ``error``."""
    begun = time.perf_counter()
    try:
        reference, candidate, inputs = planted.make()
        diagnosis = compare(reference, candidate, *inputs)
    except Exception as error:  # noqa: BLE001  # the table shows it, and the exit status is 1
        traceback.print_exc(limit=-3, file=sys.stderr)
        family = False if planted.defect else None
        return Row(
            planted.name,
            planted.half,
            planted.defect,
            time.perf_counter() - begun,
            "error",
            False,
            family,
            (),
            False,
            (),
            f"{type(error).__name__}: {error}"[:200],
        )
    judged = judge(planted, diagnosis)
    shown = tuple(
        f"{c.code}{'' if c.status == 'confirmed' else '?' if c.status == 'inconclusive' else '×'}"
        for c in diagnosis.causes
        if not c.inert
    )
    return Row(
        planted.name,
        planted.half,
        planted.defect,
        time.perf_counter() - begun,
        str(diagnosis.verdict.value),
        judged.verdict,
        judged.family,
        judged.wrong,
        judged.missed,
        shown,
        diagnosis.reason,
    )


def table(rows: Sequence[Row]) -> str:
    """The confusion table: what was planted against the verdict."""
    words = [verdict.value for verdict in Verdict] + ["error"]
    counts = Counter((row.defect, row.verdict) for row in rows)
    used = [word for word in words if any((kind, word) in counts for kind in (True, False))]
    lines = ["| | " + " | ".join(used) + " | all |", "|---" * (len(used) + 2) + "|"]
    for kind, name in ((True, "defect"), (False, "benign")):
        cells = [str(counts[kind, word]) for word in used]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {sum(r.defect is kind for r in rows)} |")
    return "\n".join(lines)


def figures(rows: Sequence[Row]) -> str:
    """The acceptance figures of some rows."""
    planted = [row for row in rows if row.defect]
    benign = [row for row in rows if not row.defect]
    families = sum(row.family is True for row in planted)
    open_ = [row for row in rows if row.verdict == "inconclusive"]
    right = sum(row.right for row in rows)
    seconds = sorted(row.seconds for row in rows)
    return "\n".join(
        (
            f"defects called rounding or identical: {sum(r.missed for r in planted)} of {len(planted)}",
            f"benign pairs called semantic or unstable: {sum(r.missed for r in benign)} of {len(benign)}",
            f"verdict right: {right} of {len(rows)} ({right / len(rows):.0%}); inconclusive: {len(open_)}, "
            f"without a reason: {sum(not r.reason for r in open_)}",
            f"cause family right: {families} of {len(planted)} ({families / max(len(planted), 1):.0%})",
            f"CONFIRMED when wrong: {sum(bool(r.wrong) for r in rows)} cases",
            f"time: median {statistics.median(seconds):.1f} s, longest {seconds[-1]:.1f} s",
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print as it goes, then each part apart."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("names", nargs="*", help="only cases whose name contains one of these")
    parser.add_argument("--half", default="", choices=("", *PARTS))
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args(argv)
    chosen = [c for c in cases(options.half) if not options.names or any(n in c.name for n in options.names)]
    rows = []
    for planted in chosen:
        row = run(planted)
        rows.append(row)
        marks = "" if row.right else " VERDICT" + (" MISSED" if row.missed else "")
        marks += " FAMILY" if row.family is False else ""
        marks += f" WRONG({', '.join(row.wrong)})" if row.wrong else ""
        print(
            f"{row.seconds:6.1f} s  {'defect' if row.defect else 'benign'}  {row.name:40s} {row.verdict:15s} "
            f"{' '.join(row.causes[:6]) or '–'}{marks}",
            flush=True,
        )
        if marks:
            print(f"          {row.reason[:300]}", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    for half in PARTS:
        part = [row for row in rows if row.half == half]
        if part:
            print(f"\n{half} part: {len(part)} cases\n{table(part)}\n{figures(part)}")
    return int(any(row.verdict == "error" or row.missed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
