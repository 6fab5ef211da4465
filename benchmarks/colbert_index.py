"""The same ColBERT index built in two environments, compared with ``whydiff artifacts``.

    python -m benchmarks.colbert_index --python COLBERT/bin/python -o FOLDER [--passages 2000]

``make venv-colbert`` makes the interpreter (colbert-ai's own dependencies beside torch). The reference
uses the machine's own instruction set, the candidate ``ATEN_CPU_CAPABILITY=default``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

import whydiff

BUILD = Path(__file__).with_name("colbert_build.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=2000)
    options = parser.parse_args()
    package = str(Path(whydiff.__file__).parents[1])
    for name, variables in (("reference", {}), ("candidate", {"ATEN_CPU_CAPABILITY": "default"})):
        command = [options.python, str(BUILD), str(options.output / name), str(options.passages)]
        subprocess.run(command, check=True, env={**os.environ, **variables, "PYTHONPATH": package})
    found = whydiff.compare_artifacts(options.output / "reference", options.output / "candidate")
    print(found.status, "–", found.reason)
    for file in found.files:
        for item in file.items:
            print(f"  {file.path}: {item.name}: {item.kind}, {item.status}: {item.reason}")
    for one in found.explanations:
        print(
            f"  {one.codes}: {one.changed} of {one.rows} changed, {one.near_ties} of {one.examined} near ties; "
            f"{one.reason}"
        )


if __name__ == "__main__":
    main()
