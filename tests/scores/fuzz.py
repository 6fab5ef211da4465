"""``python -m tests.scores.fuzz``: generated pairs; what must hold of every comparison, whatever is compared.

For each pair: the verdict is `identical` exactly where the plain outputs are bit-equal; nothing raises; the process is
what it was; the two traces on disk give the diagnosis that the live pair gave. Then the traces of all pairs are compared
in processes with other vector instructions (``ATEN_CPU_CAPABILITY``), which must give the same diagnoses.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tests import process_state
from tests.scores import rows
from tests.scores.programs import Program, pair

from whydiff.capturing.adapters import for_framework, for_target
from whydiff.capturing.store import TraceWriter
from whydiff.numbers.kernels import threads
from whydiff.pipeline import Options, compare
from whydiff.records import Diagnosis, Verdict

PAIRS = 300
CAPABILITIES = ("default", "avx2")


def bits(value: Any) -> Any:
    """Everything that a value is, so that equal means bit-equal."""
    if value is None or isinstance(value, (bool, int, str)):
        return type(value).__name__, value
    if isinstance(value, (float, complex)):
        parts = (value.real, value.imag)
        return type(value).__name__, struct.pack("2d", *parts)
    if isinstance(value, dict):
        return "dict", [(repr(key), bits(one)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [bits(one) for one in value]
    if dataclasses.is_dataclass(value):
        return type(value).__name__, bits(vars(value))
    if type(value).__module__ == "torch":
        import torch

        plain = value.detach().resolve_conj().contiguous()
        whole = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
        return "torch", str(value.dtype), tuple(value.shape), whole
    array = np.asarray(value)
    return type(value).__name__, str(array.dtype), array.shape, array.tobytes()


def facts(diagnosis: Diagnosis) -> dict[str, Any]:
    """What two diagnoses of one pair must agree in."""
    return {
        "verdict": diagnosis.verdict.value,
        "outputs": [(slot, one.status, [m.value for m in one.measurements]) for slot, one in diagnosis.outputs],
        "origins": [(str(o.site), o.kind, o.verdict.value) for o in diagnosis.origins],
    }


def state(framework: str) -> dict[str, Any]:
    """The process, in words that compare, without what the last pair's traces and captures still hold."""
    gc.collect()
    threads.stop()
    return {**process_state.of_python(), **(process_state.of_torch if framework == "torch" else process_state.of_jax)()}


def check(number: int, folder: Path) -> rows.Row:
    """One pair; its traces stay in the folder."""
    reference, candidate, inputs, change = pair(number)
    begun = time.perf_counter()
    wrong, verdict, reason, live = [], "error", "", None
    try:
        equal = bits(reference(*inputs)) == bits(candidate(*inputs))
        before = state(reference.framework)
        live = compare(reference, candidate, *inputs)
        changed = [name for name, old in before.items() if old != state(reference.framework)[name]]
        verdict, reason = live.verdict.value, live.reason
        if (live.verdict is Verdict.IDENTICAL) != equal:
            wrong.append(f"{verdict}, and the plain outputs are {'equal' if equal else 'not equal'}")
        if changed:
            wrong.append(f"changed: {', '.join(changed)}")
        disk = compare(*_captured(number, folder, (reference, candidate), inputs))
        wrong += _parted("disk", facts(live), facts(disk))
        (folder / f"{number}.json").write_text(json.dumps(facts(disk)), encoding="utf-8")
    except Exception as error:  # noqa: BLE001 - nothing may raise: that is what is scored
        wrong.append(f"{type(error).__name__}: {error}"[:300])
    found = rows.found(live) if live else ()
    ops = [[step.op for step in side.steps] for side in (reference, candidate)]
    more = {"change": change, "output": reference.output, "ops": ops, "wrong": wrong}
    text = "; ".join(wrong) or reason[:300]
    seconds = time.perf_counter() - begun
    return rows.Row(f"#{number}", reference.framework, not wrong, verdict, found, text, seconds, more)


def _captured(number: int, folder: Path, sides: tuple[Program, ...], inputs: tuple[Any, ...]) -> list[str]:
    paths = []
    for name, side in zip(("reference", "candidate"), sides, strict=True):
        run = for_target(side, inputs).run(side, inputs, {})
        environment = for_framework(run.framework).environment()
        paths.append(str(folder / f"{number}.{name}.trace"))
        with TraceWriter(
            paths[-1], framework=run.framework, level="op", environment=environment, overwrite=True
        ) as writer:
            writer.close(**run.record(writer, payloads="all"))
    return paths


def _parted(where: str, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    one, other = (json.loads(json.dumps(facts)) for facts in (one, other))
    return [f"{where}: {key} {str(one[key])[:120]} ↔ {str(other[key])[:120]}" for key in one if one[key] != other[key]]


def read_elsewhere(folder: Path, capability: str) -> dict[str, list[str]]:
    """In how far diagnoses of the folder's traces are others in a process with these vector instructions."""
    command = [sys.executable, "-m", "tests.scores.fuzz", "--read", str(folder)]
    variables = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def read(folder: Path) -> dict[str, list[str]]:
    """The same, in this process."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        sides = [str(folder / f"{file.stem}.{side}.trace") for side in ("reference", "candidate")]
        here = facts(compare(*sides, options=Options(trust=True)))
        found[file.stem] = _parted("read", json.loads(file.read_text(encoding="utf-8")), here)
    return found


def jobs(folder: Path, count: int = PAIRS) -> Iterator[tuple[str, str, Any]]:
    """One job a pair."""
    for number in range(count):
        yield f"#{number}", "jax" if number % 3 == 2 else "torch", lambda n=number: check(n, folder)


def main() -> int:
    """Run, print what is wrong as it comes, then the rates."""
    parser = rows.options(__doc__)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--traces", type=Path, help="where the traces are kept; a folder that is removed, if not given")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.read:
        print(json.dumps(read(given.read)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.traces or Path(temporary)
        folder.mkdir(exist_ok=True)
        done = rows.collect(jobs(folder), given)
        print(rows.summary(done))
        for capability in CAPABILITIES:
            found = read_elsewhere(folder, capability)
            other = {number: wrong for number, wrong in found.items() if wrong}
            print(f"{capability}: the same diagnosis {rows.rate(len(found) - len(other), len(found))}")
            for number, wrong in other.items():
                print(f"  #{number}: {'; '.join(wrong)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
