"""Long runs of captures of two ranks, counted: ``python tests/scores/ranks.py [captures] [kills]`` (100 and 20).

Prints how many captures ended, and how many traces of both ranks open; then, for every kill of one rank at a random
moment, how far each rank's trace opens. Half an hour on two slow cores.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.ranked import environment, free_port

from whydiff.capturing.store import open_ranks

SECONDS = 120
PROGRAM = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
R, N = dist.get_rank(), dist.get_world_size()
open(f"pid-{R}", "w").write(str(os.getpid()))
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.GELU(), torch.nn.Linear(24, 4))
for step in range(int(os.environ.get("STEPS", 3))):
    model.zero_grad()
    model(torch.randn(16, 12)).square().mean().backward()
    for p in model.parameters():
        dist.all_reduce(p.grad); p.grad.div_(N)
        with torch.no_grad(): p.sub_(0.1 * p.grad)
    if R == 0:
        open("steps", "w").write(str(step + 1))
if os.environ.get("TIDY", "1") == "1":
    dist.destroy_process_group()
"""


def begun(folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    """``whydiff capture`` of the program under torchrun."""
    (folder / "program.py").write_text(PROGRAM)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), "program.py"]
    command = [sys.executable, "-m", "whydiff.cli", "capture", "-o", "run.trace", "--", sys.executable, *torchrun]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, cwd=folder, env=environment() | variables, stdout=quiet, stderr=quiet, start_new_session=True
    )


def captured(number: int) -> str:
    """One capture: ``ok``, ``hang``, ``lost`` or its status. Every other one leaves its process group as it is."""
    with tempfile.TemporaryDirectory() as name:
        child = begun(Path(name), TIDY=str(number % 2))
        try:
            status = child.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return "hang"
        found, unreadable = open_ranks(Path(name) / "run.trace")
        whole = sorted(found) == [0, 1] and all(trace.complete for trace in found.values())
        return f"status {status}" if status else "ok" if whole and not unreadable else "lost"


def killed(seed: int) -> str:
    """One rank is killed at a random moment: what of both traces opens."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        child = begun(folder, STEPS="100000")
        victim, until = folder / f"pid-{chance.randrange(2)}", time.monotonic() + SECONDS
        while not victim.exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 4))
        done = (folder / "steps").read_text() if (folder / "steps").exists() else "0"
        os.kill(int(victim.read_text()), signal.SIGKILL)
        try:
            child.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return "hang"
        found, unreadable = open_ranks(folder / "run.trace")
        said = {rank: (len(trace.calls), trace.note[:90]) for rank, trace in found.items()}
        return f"{'ok' if sorted(found) == [0, 1] else 'lost'} {victim.name} after step {done}: {said} {unreadable}"


def main(captures: int = 100, kills: int = 20) -> None:
    """Run and count."""
    counted: dict[str, int] = {}
    for number in range(captures):
        how = captured(number)
        counted[how] = counted.get(how, 0) + 1
        print(number + 1, counted, flush=True)
    for seed in range(kills):
        print(seed, killed(seed), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
