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

from tests.corpus.cases import PARTS, Judged, Planted, cases, judge
from tests.corpus.expected import TOTALS, deviations, totals

from whydiff.pipeline import compare
from whydiff.records import Verdict

MARKS = {"confirmed": "", "located": "@", "inconclusive": "?"}


@dataclass
class Row:
    """What one case gave, and what of it is not as it is written down in `tests.corpus.expected`."""

    name: str
    half: str
    defect: bool
    seconds: float
    verdict: str
    judged: Judged
    causes: tuple[str, ...]
    reason: str
    deviations: tuple[str, ...]


def run(planted: Planted) -> Row:
    """Diagnose one case. An exception is a row as well: verdict ``error``."""
    begun = time.perf_counter()
    judged = Judged(verdict=False, family=False if planted.defect else None, wrong=(), missed=False)
    try:
        reference, candidate, inputs = planted.make()
        diagnosis = compare(reference, candidate, *inputs)
    except Exception as error:  # noqa: BLE001  # the table shows it, and the exit status is 1
        traceback.print_exc(limit=-3, file=sys.stderr)
        verdict, causes, reason = "error", (), f"{type(error).__name__}: {error}"[:200]
    else:
        judged = judge(planted, diagnosis)
        verdict, reason = str(diagnosis.verdict.value), diagnosis.reason
        causes = tuple(f"{c.code}{MARKS.get(c.status, '×')}" for c in diagnosis.causes if not c.inert)
    return Row(
        name=planted.name,
        half=planted.half,
        defect=planted.defect,
        seconds=time.perf_counter() - begun,
        verdict=verdict,
        judged=judged,
        causes=causes,
        reason=reason,
        deviations=tuple(deviations(planted, judged, verdict)),
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


def figures(rows: Sequence[Row], part: str) -> tuple[str, bool]:
    """The acceptance figures of a part, and whether they are those written down (asked only of a whole part)."""
    found = totals((row.defect, row.judged, row.reason) for row in rows)
    planted, benign = ([row for row in rows if row.defect is kind] for kind in (True, False))
    seconds = sorted(row.seconds for row in rows)
    lines = [
        f"defects called rounding or identical: {sum(r.judged.missed for r in planted)} of {len(planted)}",
        f"benign pairs called semantic or unstable: {sum(r.judged.missed for r in benign)} of {len(benign)}",
        f"verdict right: {found.verdicts} of {found.cases} ({found.verdicts / found.cases:.0%}); inconclusive: "
        f"{sum(r.verdict == 'inconclusive' for r in rows)}; without a reason: {found.unreasoned}",
        f"cause family right: {found.families} of {found.defects} ({found.families / max(found.defects, 1):.0%})",
        f"CONFIRMED when wrong: {found.wrong} cases",
        f"time: median {statistics.median(seconds):.1f} s, longest {seconds[-1]:.1f} s",
    ]
    held = found.cases < TOTALS[part].cases or found == TOTALS[part]
    if not held:
        lines.append(f"NOT AS WRITTEN DOWN: {found}, written down as {TOTALS[part]}")
    return "\n".join(lines), held


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
        marks = f"  NOT AS WRITTEN DOWN ({'; '.join(row.deviations)})" if row.deviations else ""
        print(
            f"{row.seconds:6.1f} s  {'defect' if row.defect else 'benign'}  {row.name:40s} {row.verdict:15s} "
            f"{' '.join(row.causes[:6]) or '–'}{marks}",
            flush=True,
        )
        if marks or not row.judged.verdict or row.judged.family is False:
            print(f"          {row.reason[:300]}", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    held = True
    for half in (*PARTS, ""):
        part = [row for row in rows if half in ("", row.half)]
        if part:
            text, as_written = figures(part, half)
            held = held and as_written
            print(f"\n{half + ' part' if half else 'in all'}: {len(part)} cases\n{table(part)}\n{text}")
    return int(not held or any(row.deviations for row in rows))


if __name__ == "__main__":
    sys.exit(main())
