"""`python -m tests.scores.appetite`: what captures take of memory and disk, at every level (about three minutes).

Two programs run plainly and under every kind of capture, each time in a process of its own: 400 modules whose activations
are larger than the model, and a training loop. A capture's peak must stay within 1.3 times the plain peak and 200 MB, full
tensors on disk within ``max_bytes``, and what was left out must be counted. On a disk of 20 MB (a tmpfs, where this system
lets one be mounted), empty or nearly full, the program must go on and give the same numbers, and what was written must open.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
from torch import nn

FACTOR, BESIDES = 1.3, 200
"""Of the plain peak, and MB."""
WAYS = (("op", "none"), ("op", "globs"), ("op", "all"), ("module", "none"), ("module", "all"), ("step", "none"))
FEW, DISK = 32, 20
"""MB that full tensors may take where that is asked for, and that a small disk has."""
NEARLY_FULL = 19 << 20
LATE = 600


def deep() -> list[torch.Tensor]:
    """400 modules, each of which makes a mebibyte."""
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(200) for layer in (nn.Linear(64, 64), nn.Tanh())))
    with torch.no_grad():
        return [model(torch.ones(4096, 64) * (number + 1)).sum(1) for number in range(1)]


def trained() -> list[torch.Tensor]:
    """Three steps; what the backward pass needs is held by the program itself."""
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(24) for layer in (nn.Linear(256, 256), nn.ReLU())))
    optimizer = torch.optim.AdamW(model.parameters())
    for number in range(3):
        optimizer.zero_grad()
        model(torch.ones(1024, 256) * (number + 1)).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


PROGRAMS: dict[str, Callable[[], list[torch.Tensor]]] = {"deep": deep, "trained": trained}


def one(program: str, level: str, payloads: str, folder: str, most: int) -> None:
    """Run a program, captured unless ``level`` is ``plain``; prints what the score asks for."""
    told: dict[str, Any] = {}
    run = PROGRAMS[program]
    if level == "plain":
        given = run()
    else:
        import whydiff

        chosen: Any = ["*0*"] if payloads == "globs" else payloads
        with whydiff.capture(f"{folder}/a.trace", level=level, payloads=chosen, max_bytes=most << 20):
            given = run()
        told["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # opening it is not the capture
        told |= opened(Path(folder) / "a.trace", level)
    told.setdefault("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    told["digest"] = torch.hash_tensor(torch.cat([tensor.reshape(-1) for tensor in given])).item()
    print(json.dumps(told))


def opened(path: Path, level: str) -> dict[str, Any]:
    """What a capture left on disk, in MB of full tensors, and what it says of itself."""
    from whydiff.capturing.steps import read_steps
    from whydiff.capturing.store import open_trace

    if level == "step":
        log = read_steps(path)
        return {"complete": log.complete, "holds": len(log.steps), "left": 0, "disk": 0.0}
    trace = open_trace(path)
    disk = sum(file.stat().st_size for file in path.rglob("*.safetensors")) / 2**20
    left = sum(hole.count for hole in trace.holes)
    return {"complete": trace.complete, "holds": len(trace.calls), "left": left, "disk": disk}


def done(*arguments: str, before: str = "") -> dict[str, Any]:
    """What `one` prints in a process of its own; how it ended if it printed nothing."""
    command = [sys.executable, "-m", "tests.scores.appetite", "--one", *arguments]
    if before:
        command = ["unshare", "-rm", "sh", "-c", f'{before} && exec "$@"', "sh", *command]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LATE, check=False)
    lines = ended.stdout.splitlines()
    if ended.returncode or not lines:
        return {"ended": f"status {ended.returncode}: {ended.stderr.strip()[-300:]}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def memory(show: Callable[[str], None]) -> Iterator[str]:
    """What takes too much memory or disk, or changes what a program gives."""
    for program in PROGRAMS:
        plain = done(program, "plain", "none", ".", "0")
        most = FACTOR * plain["peak"] + BESIDES
        show(f"{program}: {plain['peak']} MB plainly, {most:.0f} MB allowed")
        whole = 0.0
        for level, payloads in WAYS:
            for limit in (8192, FEW) if payloads == "all" else (8192,):
                with tempfile.TemporaryDirectory() as folder:
                    found = done(program, level, payloads, folder, str(limit))
                name = f"{program}, {level}, {payloads}, at most {limit} MB on disk"
                if "ended" in found:
                    yield f"{name}: {found['ended']}"
                    continue
                show(
                    f"  {level:7} {payloads:6} {limit:5} MB: peak {found['peak']:5} MB, {found['disk']:7.1f} MB of full "
                    f"tensors, {found['left']} left out"
                )
                if found["peak"] > most:
                    yield f"{name}: {found['peak']} MB of memory"
                if found["disk"] > limit + 1:
                    yield f"{name}: {found['disk']:.1f} MB on disk"
                whole = found["disk"] if limit > FEW else whole
                if limit < whole and not found["left"]:
                    yield f"{name}: nothing is said to be left out"
                if found["digest"] != plain["digest"] or not found["complete"]:
                    yield f"{name}: other numbers, or not complete: {found}"


def disk(show: Callable[[str], None]) -> Iterator[str]:
    """What a small disk does to a program or to what was written."""
    with tempfile.TemporaryDirectory() as folder:
        mount = f"mount -t tmpfs -o size={DISK}m tmpfs {folder}"
        if shutil.which("unshare") is None or done("deep", "plain", "none", folder, "0", before=mount).get("ended"):
            show(f"a disk of {DISK} MB: not run, this system lets no tmpfs be mounted")
            return
        fill = f"{mount} && head -c {NEARLY_FULL} /dev/zero > {folder}/other"
        for program in PROGRAMS:
            plain = done(program, "plain", "none", folder, "0")
            for level, payloads in (("op", "all"), ("module", "all"), ("step", "none")):
                for state, before in (("empty", mount), ("nearly full", fill)):
                    found = done(program, level, payloads, folder, "8192", before=before)
                    name = f"{program}, {level}, {payloads}, on a disk of {DISK} MB, {state}"
                    if "ended" in found:
                        yield f"{name}: {found['ended']}"
                        continue
                    how = "complete" if found["complete"] else "not complete"
                    show(f"  {name}: {found['disk']:.1f} MB of full tensors, {found['left']} holes, {how}")
                    if found["digest"] != plain["digest"]:
                        yield f"{name}: the program gave other numbers"


def score(show: Callable[[str], None] = print) -> int:
    """Print what was measured and what is wrong; returns how much is."""
    wrong = [*memory(show), *disk(show)]
    for line in wrong:
        show(line)
    show(f"{len(wrong)} captures take more than they may, or change the program")
    return len(wrong)


if __name__ == "__main__":
    if "--one" in sys.argv:
        one(*sys.argv[2:6], int(sys.argv[6]))
    else:
        sys.exit(min(score(), 1))
