"""``python -m tests.scores.training_lines [LINE …]``: what is promised of training, line by line, each in its own process.

A line prints whether it holds, wall time, processor time, the time for which it could have run and waited for a
processor (Linux counts it), the most memory that it held, and what it left on disk.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.scores.programs_of_training import decay, resume

from whydiff.capturing.steps import read_steps
from whydiff.records import Diagnosis, Verdict
from whydiff.studies.training import TrainingOptions, TrainingReport, compare_training

PROGRAMS = Path(__file__).parent / "programs_of_training"
SCRIPT = str(PROGRAMS / "loss_scale.py")
Found = tuple[bool, str]


def late(steps: int, at: int, folder: Path) -> Found:
    """A gradient is divided by the next scale: the step, the op, the factor."""
    given = f"{SCRIPT} --steps {steps} --at {at}"
    found = compare_training(given, f"{given} --late-update", TrainingOptions(log=str(folder)))
    causes = told(found.diagnosis)
    factor = [c for c in (found.diagnosis.causes if found.diagnosis else ()) if c.code == "FO003"]
    right = found.parting is not None and found.parting.step == at and bool(factor) and "0.5" in (factor[0].says or "")
    where = dict(found.answer()).get("where", "")
    return right and "div" in where, f"{step_of(found)}; {where}; {[c.says for c in factor]} {causes}"


def traces(folder: Path) -> Found:
    """The same from two whole traces of 100 steps, captured from the script and compared on disk."""
    from typer.testing import CliRunner

    from whydiff.cli import app
    from whydiff.pipeline import compare

    paths = [str(folder / name) for name in ("reference", "candidate")]
    for path, more in zip(paths, ([], ["--late-update"]), strict=True):
        kept = CliRunner().invoke(app, ["capture", "-o", path, "--", sys.executable, SCRIPT, *more])
        if kept.exit_code:
            return False, kept.output
    found = compare(*paths)
    (cause,) = [c for c in found.causes if c.code == "FO003"] or [None]
    right = cause is not None and "step=36" in str(cause.site) + str(found.origins[0])
    return right, f"{found.verdict}: {[(c.code, c.status, c.site, c.says) for c in found.causes]}"


def resumes(folder: Path) -> Found:
    """Six forms of one resumed run, by ``compare`` and by ``compare_training``."""
    import whydiff

    wanted: dict[str, set[str]] = {
        "good": set(),
        "no_optimizer": {"TR002"},
        "no_random": {"MD002"},
        "no_schedule": {"TR003"},
        "nothing": {"TR002", "TR003", "MD002"},
    }
    wrong, seen = [], []
    resume.full()
    for name, codes in wanted.items():
        for way, look in (("compare", whydiff.compare), ("training", _diagnosed)):
            verdict, causes = _both(look(resume.full, getattr(resume, name)))
            expected = Verdict.SEMANTIC if codes else Verdict.IDENTICAL
            # Adam's hyperparameters go on from the defaults where its state does not
            proven = {code for code, status in causes if status == "confirmed"}
            right = verdict is expected and codes <= proven and (bool(codes) or not proven)
            seen.append(f"{name} by {way}: {verdict} {sorted(causes)}")
            wrong += [] if right else [seen[-1]]
    return not wrong, "; ".join(wrong or seen)


def by_hand(folder: Path) -> Found:
    """A loop without an optimizer that goes on from weights in a file: identical."""
    import whydiff

    resume.hand_full()
    one = whydiff.compare(resume.hand_full, resume.hand_resumed).verdict
    other = compare_training(resume.hand_full, resume.hand_resumed).verdict
    return one is other is Verdict.IDENTICAL, f"{one} by compare, {other} by training"


def recurrence(folder: Path) -> Found:
    """Decay through the momentum, in lists of tensors against a loop."""
    found = compare_training(decay.loop, decay.within)
    causes = told(found.diagnosis)
    right = found.verdict is Verdict.SEMANTIC and any(status in ("confirmed", "located") for _, status in causes)
    return right, f"{found.verdict} {causes}, {step_of(found)}; {dict(found.answer()).get('where')}"


def recurrence_by_lists(folder: Path) -> Found:
    """The same recurrence in lists of tensors: no cause."""
    found = compare_training(decay.loop, decay.lists)
    causes = told(found.diagnosis)
    return found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING) and not causes, f"{found.verdict} {causes}"


def killed(folder: Path) -> Found:
    """A script that is killed while it runs, three times at a random moment: its log keeps every step before."""
    seen = []
    for round_ in range(3):
        log = folder / str(round_)
        last = random.Random(f"{time.time()}").randint(20, 400)
        command = [sys.executable, "-m", "whydiff", "capture", "--level", "step", "-o", str(log), "--"]
        child = subprocess.Popen(
            [*command, sys.executable, SCRIPT, "--steps", "100000"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        file = log / "steps.jsonl"
        while child.poll() is None and (lines := _lines(file)) < last:
            time.sleep(0.01)
        lines = _lines(file)
        child.send_signal(signal.SIGKILL)
        child.wait()
        kept = read_steps(log)
        numbers = [step.number for step in kept.steps]
        right = not kept.complete and numbers == list(range(len(numbers))) and len(numbers) >= lines - 1 >= last - 1
        seen.append((right, f"killed when {lines - 1} steps were written, {len(numbers)} are read"))
    return all(right for right, _ in seen), "; ".join(text for _, text in seen)


def memory(folder: Path) -> Found:
    """What the cheap pass holds does not grow with the steps: resident memory after 2,000 and after 20,000."""
    held = {steps: _held(steps, folder) for steps in (2000, 20000)}
    grown = held[20000] - held[2000]
    return grown < 20, f"MiB at most: {held[2000]:.0f} after 2,000 steps, {held[20000]:.0f} after 20,000"


LINES: dict[str, tuple[Callable[[Path], Found], float, float]] = {
    "loss_scale_step_36": (lambda folder: late(100, 36, folder), 30, 500),
    "loss_scale_step_637": (lambda folder: late(1000, 637, folder), 120, 500),
    "loss_scale_traces": (traces, 30, 500),
    "resume": (resumes, 300, 500),
    "resume_by_hand": (by_hand, 60, 500),
    "sgdw_foreach": (recurrence, 30, 500),
    "sgdw_foreach_benign": (recurrence_by_lists, 30, 500),
    "killed": (killed, 300, 500),
    "memory": (memory, 300, 500),
}
"""Line → what runs it, and the most seconds and megabytes on disk that it may take."""


def told(found: Diagnosis | None) -> list[tuple[str, str]]:
    """Codes and statuses of the causes."""
    return [(cause.code, str(cause.status)) for cause in (found.causes if found is not None else ())]


def step_of(found: TrainingReport) -> str:
    return f"step {found.parting.step}" if found.parting is not None else "no step"


def _diagnosed(reference: Any, candidate: Any) -> Any:
    return compare_training(reference, candidate)


def _both(found: Any) -> tuple[Verdict, list[tuple[str, str]]]:
    return found.verdict, told(found if isinstance(found, Diagnosis) else found.diagnosis)


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def _held(steps: int, folder: Path) -> float:
    watched = (
        "import resource, sys; from whydiff.studies.training.programs import Script;"
        "from whydiff.studies.training.study import run_watched; from whydiff.capturing.steps import StepWriter;"
        f"run_watched(Script({SCRIPT!r}, ['--steps', '{steps}']), StepWriter({str(folder / str(steps))!r}).add);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    said = subprocess.run([sys.executable, "-c", watched], capture_output=True, text=True, check=True)
    return float(said.stdout.split()[-1])


def _waited() -> float:
    """Seconds for which threads of this process could have run and had no processor; 0 where nobody counts them."""
    with contextlib.suppress(OSError):
        tasks = Path("/proc/self/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[1]) for task in tasks) / 1e9
    return 0.0


def inside(name: str) -> None:
    """Run one line in this process and print what came of it as JSON."""
    run, most, space = LINES[name]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            right, text = run(Path(folder))
        wall = time.perf_counter() - began
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6
    processor = sum(one.ru_utime + one.ru_stime for one in used)
    row = {"line": name, "right": right, "text": text, "wall": wall, "processor": processor, "waited": _waited()}
    row |= {"most": most, "memory": max(one.ru_maxrss for one in used) / 1024, "disk": disk, "space": space}
    print(json.dumps(row))


def main() -> None:
    """Run the lines that are named, or all."""
    names = sys.argv[1:] or list(LINES)
    if names[0] == "--inside":
        inside(names[1])
        return
    failed = []
    for name in names:
        child = subprocess.run(
            [sys.executable, "-m", "tests.scores.training_lines", "--inside", name], capture_output=True, text=True
        )
        if child.returncode:
            print(f"{name}: FAILED\n{child.stderr[-2000:]}", flush=True)
            failed.append(name)
            continue
        row = json.loads(child.stdout.splitlines()[-1])
        fits = row["processor"] <= row["most"] and row["disk"] <= row["space"]
        print(
            f"{name}: {'holds' if row['right'] and fits else 'FAILED'}; wall {row['wall']:.1f} s, processor "
            f"{row['processor']:.1f} s (imports too), waited for one {row['waited']:.1f} s; {row['memory']:.0f} MiB held, "
            f"{row['disk']:.1f} MB on disk (at most {row['most']:.0f} s, {row['space']:.0f} MB)\n    {row['text']}",
            flush=True,
        )
        failed += [] if row["right"] and fits else [name]
    print("all hold" if not failed else f"failed: {', '.join(failed)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
