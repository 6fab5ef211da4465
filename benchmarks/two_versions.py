"""MiniLM's real weights under two PyTorch versions, in batches of 32 texts of 61 to 194 tokens.

    python -m benchmarks.two_versions --reference REF/bin/python --candidate CAND/bin/python -o FOLDER

``make venvs-matrix`` builds both interpreters. Each length is a `whydiff.studies.matrix` of two environments:
the candidate's interpreter replays against the reference's recorded tensors, so that every origin is found.
Prints a table (Markdown) and, with ``--json FILE``, writes the numbers. ``--outputs-only`` compares the
outputs of every length alone, with ``whydiff artifacts``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import whydiff
from whydiff.studies.artifacts import compare_artifacts
from whydiff.studies.matrix import Matrix, MatrixOptions, run_matrix, settings

LENGTHS = (61, 62, 63, 64, 66, 67, 68, 69, 70, 71, 72, 73, 77, 78, 79, 80, 82, 83, 86, 90, 115, 194)
"""The sequence lengths of the batches in the third seed."""
TARGET = f"{Path(__file__).with_name('minilm_target.py')}:run"


def measure(reference: str, candidate: str, folder: Path, batch: int, length: int) -> Matrix:
    """One length; the folder is emptied afterwards (full tensors of one length are up to 1.5 GB)."""
    place = folder / f"{batch}x{length}"
    options = MatrixOptions(place, (batch, length), timeout=900)
    found = run_matrix(TARGET, settings([reference, candidate], []), options)
    shutil.rmtree(place, ignore_errors=True)
    return found


def row(length: int, found: Matrix) -> dict[str, Any]:
    """The figures of one length."""
    pair = found.pairings[0]
    origins = pair.diagnosis.get("origins", ())
    impact = {m["metric"]: m["value"] for m in pair.diagnosis.get("impact", ())}
    changed = impact.get("different")
    return {
        "length": length,
        "verdict": pair.verdict,
        "origins": pair.origins,
        "ops": sorted({o["site"]["op"] for o in origins}),
        "different": changed,
        "max_abs": pair.max_abs,
        "accounted": pair.diagnosis.get("accounted"),
        "verdicts": sorted({o["verdict"] for o in origins}),
        "causes": [f"{c.code} {c.name} ({c.status})" for c in pair.causes],
        "reason": pair.reason,
        "notes": [cell.note for cell in found.cells if cell.note] + list(found.notes),
    }


def outputs(python: str, folder: Path, batch: int, lengths: Sequence[int]) -> None:
    """Save the outputs of every length under one interpreter, in one process."""
    command = [python, TARGET.rpartition(":")[0], str(folder), str(batch), *map(str, lengths)]
    package = str(Path(whydiff.__file__).parents[1])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": package, "HF_HUB_OFFLINE": "1"})


def tabulate_outputs(reference: str, candidate: str, place: Path, batch: int, lengths: Sequence[int]) -> None:
    """Every length's last hidden state under both versions, compared with ``whydiff artifacts``."""
    for name, python in (("reference", reference), ("candidate", candidate)):
        outputs(python, place / name, batch, lengths)
    found = compare_artifacts(place / "reference", place / "candidate")
    items = {file.path: file.items[0] for file in found.files}
    print("| batch | bits | different | max abs | mean abs | within 1e-6 / 1e-5 |")
    print("|---|---|---|---|---|---|")
    for length in lengths:
        item = items.get(f"{length:03d}.npy")
        if item is None:
            print(f"| {batch} × {length} | identical | 0 % | 0 | 0 | yes |")
            continue
        different = next(m.value for m in item.measurements if m.metric == "different")
        print(
            f"| {batch} × {length} | differ | {100 * different:.1f} % | {item.max_abs:.1e} | "
            f"{item.mean_abs:.1e} | {'yes' if item.allclose else 'no'} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--candidate", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--outputs-only", action="store_true", help="compare outputs, no origins: minutes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.outputs_only:
        tabulate_outputs(options.reference, options.candidate, options.output, options.batch, options.lengths)
        return
    rows = []
    print("| batch | verdict | origins | their ops | different | max abs | resynchronised | cause |")
    print("|---|---|---|---|---|---|---|---|")
    for length in options.lengths:
        found = measure(options.reference, options.candidate, options.output, options.batch, length)
        r = row(length, found)
        rows.append(r)
        share = "–" if r["different"] is None else f"{100 * r['different']:.1f} %"
        size = "–" if r["max_abs"] is None else f"{r['max_abs']:.1e}"
        print(
            f"| {options.batch} × {length} | {r['verdict']} | {r['origins']} | {', '.join(r['ops'])} | "
            f"{share} | {size} | {r['accounted']} | {', '.join(r['causes']) or '–'} |",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
