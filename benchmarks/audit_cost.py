"""What a range audit costs: ratio to the plain run, and the memory that it holds.

Two tasks. ``smollm``: SmolLM2-135M, float32, CPU, 64 tokens, one forward pass under ``no_grad``. ``training``: 20 steps
of a small GPT (float16 autocast with loss scaling, AdamW, CPU); then once 200 steps, whose loss scale is let grow until
gradients overflow: the steps that the audit names must be those that the scaler skipped.

Plain and audited runs alternate; each pair gives a ratio, and the median and the lowest of the ratios are reported,
of wall time and of this thread's processor time (with one thread the latter hardly depends on what else runs). "call"
is all of `whydiff.range_audit`, with what it keeps of the model's beginning.

    python -m benchmarks.audit_cost                         # both tasks, with one thread and with all
    python -m benchmarks.audit_cost --task smollm --pairs 30
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
STEPS, SHORT = 200, 20


def smollm() -> tuple[Callable[[], Any], dict[str, Any]]:
    """One forward pass over 64 tokens."""
    import torch
    from benchmarks.capture_cost import model_and_ids

    import whydiff

    model, ids = model_and_ids()

    def run() -> None:
        with torch.no_grad():
            model(ids)

    def whole() -> Any:
        with torch.no_grad():
            return whydiff.range_audit(model, ids)

    return run, {"root": model, "whole": whole}


class Training:
    """A GPT of 4 layers, width 128, 4 heads, 64 positions, batch 4, on a text made of its own source."""

    def __init__(self) -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        self.text = torch.frombuffer(bytearray(Path(__file__).read_bytes()), dtype=torch.uint8).long() % 128

        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.LayerNorm(128), nn.LayerNorm(128)
                self.qkv, self.out = nn.Linear(128, 384), nn.Linear(128, 128)
                self.mlp = nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 128))

            def forward(self, x: Any) -> Any:
                q, k, v = self.qkv(self.first(x)).view(*x.shape[:2], 3, 4, 32).permute(2, 0, 3, 1, 4)
                seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + self.out(seen.transpose(1, 2).reshape(x.shape))
                return x + self.mlp(self.second(x))

        class GPT(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.words, self.places = nn.Embedding(128, 128), nn.Embedding(64, 128)
                self.blocks, self.norm = nn.Sequential(*(Block() for _ in range(4))), nn.LayerNorm(128)
                self.head = nn.Linear(128, 128)

            def forward(self, ids: Any) -> Any:
                return self.head(self.norm(self.blocks(self.words(ids) + self.places.weight)))

        self.model = GPT()
        self.begin = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.skipped: list[int] = []

    def run(self, steps: int) -> None:
        """Train from the same beginning; notes the steps that the scaler skipped."""
        import torch

        self.model.load_state_dict(self.begin)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=20)
        generator = torch.Generator().manual_seed(0)
        self.skipped = []
        for step in range(steps):
            starts = torch.randint(0, len(self.text) - 65, (4,), generator=generator)
            batch = torch.stack([self.text[s : s + 65] for s in starts.tolist()])
            with torch.autocast("cpu", dtype=torch.float16):
                logits = self.model(batch[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.float().view(-1, 128), batch[:, 1:].reshape(-1))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() < before:
                self.skipped.append(step)


def training() -> tuple[Callable[[], Any], dict[str, Any]]:
    """The training run."""
    task = Training()
    return (lambda: task.run(SHORT)), {"root": task.model, "task": task}


TASKS = {"smollm": smollm, "training": training}


def audited(run: Callable[[], Any], root: Any) -> Any:
    """One run under a range recorder, as `whydiff.range_audit` makes it."""
    from whydiff.capturing.adapters.torch.range_recorder import RangeRecorder
    from whydiff.capturing.adapters.torch.scopes import Scopes

    scopes = Scopes([("", root)])
    recorder = RangeRecorder(scopes)
    with scopes, recorder:
        run()
    return recorder.audit()


def measure(name: str, pairs: int, threads: int) -> dict[str, Any]:
    """Paired ratios of one task in this process."""
    import torch

    torch.set_num_threads(threads)
    run, more = TASKS[name]()
    root, task, whole = more["root"], more.get("task"), more.get("whole")
    plain, wall, own, call, overflows = [], [], [], [], []
    audit: Any = None
    for number in range(pairs + 1):
        times = [(time.perf_counter(), time.thread_time())]
        for step in (run, lambda: audited(run, root), whole):
            if step is not None:
                audit = step() or audit
                times.append((time.perf_counter(), time.thread_time()))
        if number == 0 and pairs > 1:
            continue  # the first pair warms up
        spent = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(times)]
        plain.append(spent[0][0])
        wall.append(spent[1][0] / spent[0][0])
        own.append(spent[1][1] / spent[0][1])
        call += [spent[2][1] / spent[0][1]] if whole else []
        if pairs == 1:
            break
    audit, peak = getattr(audit, "audit", audit), _memory(run, root)
    if task is not None:
        audit = audited(lambda: task.run(STEPS), root)
        overflows = sorted({step for a in audit.alarms if a.kind == "overflow" for step in a.every})
    return {
        "task": name,
        "threads": threads,
        "pairs": len(wall),
        "plain_s": statistics.median(plain),
        "wall": statistics.median(wall),
        "wall_lowest": min(wall),
        "own": statistics.median(own),
        "own_lowest": min(own),
        "call": statistics.median(call) if call else None,
        "sites": len(audit.sites),
        "calls": sum(site.calls for site in audit.sites),
        "overflow_steps": overflows,
        "skipped_steps": getattr(task, "skipped", []),
        "peak_mib": peak,
    }


def _memory(run: Callable[[], Any], root: Any) -> float:
    """MiB that Python and numpy held at most while an audit ran (tensors are not counted: none is kept)."""
    gc.collect()
    tracemalloc.start()
    try:
        audited(run, root)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def main() -> None:
    """Measure each task, with one thread and with all, in a process of its own; print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--threads", type=int, default=0, help="measure in this process and print JSON")
    parser.add_argument("--pairs", type=int, default=0, help="15 (smollm) or 7 (training) by default")
    options = parser.parse_args()
    if options.threads:
        pairs = options.pairs or {"smollm": 15, "training": 7}[options.task]
        print(json.dumps(measure(options.task, pairs, options.threads)))
        return
    columns = ("threads", "x wall", "lowest", "x own", "lowest", "x call", "plain s", "sites", "MiB")
    print(f"{'task':10}" + "".join(f"{column:>9}" for column in columns))
    for task in [options.task] if options.task else TASKS:
        for threads in sorted({1, os.cpu_count() or 1}):
            command = [sys.executable, "-m", "benchmarks.audit_cost", "--task", task, "--threads", str(threads)]
            command += ["--pairs", str(options.pairs)]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.strip().splitlines()[-1])
            figures = [row[name] for name in ("wall", "wall_lowest", "own", "own_lowest", "call", "plain_s")]
            shown = "".join(f"{'–' if value is None else format(value, '.2f'):>9}" for value in figures)
            print(f"{task:10}{threads:9}{shown}{row['sites']:9}{row['peak_mib']:9.1f}")
            if row["skipped_steps"] or row["overflow_steps"]:
                print(f"{'':10}overflow at steps {row['overflow_steps']}; the scaler skipped {row['skipped_steps']}")


if __name__ == "__main__":
    main()
