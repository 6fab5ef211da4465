"""``python -m tests.scores.dumps --python .venv-peers/msprobe/bin/python``: dumps that the tools themselves wrote.

msprobe, torch's DebugMode and transformers' model debugger run in the environment of that interpreter (``make bench-peers``
makes it; torch, transformers and mindstudio-probe are in it, whydiff is not), each on a model of blocks and on a small Llama,
twice as it is and once with a planted epsilon. Right: two equal runs are silent, and of the other one the norm is named in
the first line, its inputs agreeing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.scores.dump_writers import RIGHT, STARTS

from whydiff.studies.dumps import compare_dumps

EVERY = tuple(
    (tool, model)
    for tool in ("msprobe-tensor", "msprobe-statistics", "debug-mode", "debugger", "debugger-printed")
    for model in STARTS
)
RUNS = {"right": RIGHT, "again": RIGHT, "planted": 1e-3}


def written(python: str, tool: str, model: str, folder: Path) -> None:
    """The three runs; msprobe takes one configuration in a process, and so has one for each."""
    runs = [f"{folder / name}={eps}" for name, eps in RUNS.items()]
    for some in [[run] for run in runs] if tool.startswith("msprobe") else [runs]:
        command = [python, "-m", "tests.scores.dump_writers", tool, model, *some]
        subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True)


def dump(folder: Path) -> Path:
    """What is compared: the folder, or the one text in it."""
    return next(folder.glob("*.txt"), folder)


def wrong(folder: Path, model: str) -> str:
    """What is not as it should be; empty: right."""
    silent = compare_dumps(dump(folder / "right"), dump(folder / "again"))
    if silent.status not in ("identical", "same summary", "within tolerance") or silent.start is not None:
        return f"two equal runs: {silent.status}, {silent.start}, {silent.not_paired}"
    found = compare_dumps(dump(folder / "right"), dump(folder / "planted"))
    if found.start is None or found.start.place.scope != STARTS[model] or found.start.inputs != "agree":
        return f"planted: {found.status}, {found.start}"
    return ""


def main() -> int:
    """Print what is wrong, and how many are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=".venv-peers/msprobe/bin/python", help="interpreter that has the tools")
    parser.add_argument("tools", nargs="*", help="only tools whose name begins like one of these")
    given = parser.parse_args()
    chosen = [one for one in EVERY if not given.tools or one[0].startswith(tuple(given.tools))]
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        for tool, model in chosen:
            folder = Path(place) / f"{tool}-{model}"
            written(given.python, tool, model, folder)
            text = wrong(folder, model)
            bad += bool(text)
            print(f"{'WRONG' if text else 'right'} {tool} {model} {text}".rstrip(), flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} right")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
