"""What capturing costs: ratio to the plain run, whydiff beside its peers, on one task.

Task: SmolLM2-135M, float32, CPU, 64 tokens, one forward pass under ``no_grad``. Plain and instrumented runs
alternate; each pair gives a ratio, and the median of the ratios is reported (lone times drift on shared machines).

    python -m benchmarks.capture_cost                       # whydiff and what is in this environment
    make bench-peers                                        # peers, each in its own environment under .venv-peers
    python benchmarks/capture_cost.py --tool torchlens      # one tool, in the environment it is installed in
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
TOKENS = 64


def model_and_ids() -> tuple[Any, Any]:
    """SmolLM2 in float32 and 64 token ids; the checkpoint's folder comes from the environment or whydiff."""
    import torch
    import transformers

    folder = os.environ.get("WHYDIFF_SMOLLM")
    if not folder:
        from whydiff.cli.demos import smollm

        folder = str(smollm.checkpoint())
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    return model, torch.randint(0, 49152, (1, TOKENS), generator=generator)


def whydiff_op(model: Any, ids: Any) -> Callable[[], Any]:
    """Op level: every op, what it read and wrote, fingerprinted."""
    from whydiff.capturing.adapters.torch.session import Session

    def run() -> Any:
        with Session() as session:
            model(ids)
        return session

    return run


def whydiff_records(model: Any, ids: Any) -> Callable[[], Any]:
    """The same, and the records made that comparing and writing need (in memory they are made when asked for)."""
    capture = whydiff_op(model, ids)
    return lambda: len(capture().calls)


def whydiff_module(model: Any, ids: Any) -> Callable[[], Any]:
    """Module level: inputs and outputs of every module, fingerprinted."""
    from whydiff.capturing.adapters.torch.session import Session

    def run() -> Any:
        with Session(level="module") as session:
            model(ids)
        return session

    return run


def debug_mode(model: Any, ids: Any) -> Callable[[], Any]:
    """torch's DebugMode with tensor hashes."""
    from torch.utils._debug_mode import DebugMode

    def run() -> Any:
        with DebugMode() as mode, DebugMode.log_tensor_hashes(hash_inputs=True):
            model(ids)
        return mode.debug_string()

    return run


def torchlens(model: Any, ids: Any) -> Callable[[], Any]:
    """torchlens, saving every activation."""
    import torchlens as library

    log = getattr(library, "log_forward_pass", None) or library.trace

    return lambda: log(model, ids)


def nnsight(model: Any, ids: Any) -> Callable[[], Any]:
    """nnsight, saving the output of every decoder layer (it keeps references and computes no statistics)."""
    from nnsight import NNsight

    wrapped = NNsight(model)

    def run() -> Any:
        saved: list[Any] = []
        with wrapped.trace(ids):
            for layer in wrapped.model.layers:
                saved.append(layer.output.save())
        assert len(saved) == len(model.model.layers)
        return saved

    return run


def msprobe(model: Any, ids: Any) -> Callable[[], Any]:
    """mindstudio-probe, statistics mode with md5, level mix."""
    from msprobe.pytorch import PrecisionDebugger

    folder = tempfile.mkdtemp()
    config = Path(folder, "config.json")
    config.write_text(
        json.dumps(
            {
                "task": "statistics",
                "dump_path": folder,
                "rank": [],
                "step": [],
                "level": "mix",
                "statistics": {"scope": [], "list": [], "data_mode": ["all"], "summary_mode": "md5"},
            }
        )
    )
    debugger = PrecisionDebugger(config_path=str(config))

    def run() -> Any:
        debugger.start(model=model)
        model(ids)
        debugger.stop()
        debugger.step()
        assert any(Path(folder).rglob("dump.json"))  # else it measured nothing

    return run


def transformers_debugger(model: Any, ids: Any) -> Callable[[], Any]:
    """transformers' model_addition_debugger_context, dumping every module's tensors."""
    from transformers.model_debugging_utils import model_addition_debugger_context

    def run() -> Any:
        with (
            tempfile.TemporaryDirectory() as folder,
            model_addition_debugger_context(model, debug_path=folder, do_prune_layers=False),
        ):
            model(ids)

    return run


TOOLS: dict[str, Callable[[Any, Any], Callable[[], Any]]] = {
    "whydiff_op": whydiff_op,
    "whydiff_records": whydiff_records,
    "whydiff_module": whydiff_module,
    "debug_mode": debug_mode,
    "transformers_debugger": transformers_debugger,
    "torchlens": torchlens,
    "msprobe": msprobe,
    "nnsight": nnsight,
}


def measure(tool: str, runs: int) -> dict[str, Any]:
    """Paired ratios of one tool in this process."""
    import torch

    model, ids = model_and_ids()
    ratios, plain, seen = [], [], []
    with torch.no_grad():
        run = TOOLS[tool](model, ids)
        for number in range(runs + 1):
            begin = time.perf_counter()
            model(ids)
            middle = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                run()
            end = time.perf_counter()
            if number:  # the first pair warms up
                plain.append(middle - begin)
                seen.append(end - middle)
                ratios.append((end - middle) / (middle - begin))
    return {
        "tool": tool,
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "plain_s": statistics.median(plain),
        "captured_s": statistics.median(seen),
        "pairs": runs,
    }


def main() -> None:
    """Measure each tool in a process of its own and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", choices=TOOLS, help="measure one tool in this process and print JSON")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--peers", default=".venv-peers", help="folder of environments named after the tools")
    options = parser.parse_args()
    if options.tool:
        print(json.dumps(measure(options.tool, options.runs)))
        return
    from whydiff.cli.demos import smollm

    environment = os.environ | {"WHYDIFF_SMOLLM": str(smollm.checkpoint())}
    print(f"{'tool':24}{'x plain':>9}{'lowest':>9}{'highest':>9}{'plain s':>10}")
    for tool in TOOLS:
        own = Path(options.peers, tool, "bin", "python")
        python = str(own) if own.exists() else sys.executable
        command = [python, __file__, "--tool", tool, "--runs", str(options.runs)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            print(f"{tool:24}  not measured: {reason[:100]}")
            continue
        row = json.loads(lines[-1])
        print(f"{tool:24}{row['ratio']:9.2f}{row['lowest']:9.2f}{row['highest']:9.2f}{row['plain_s']:10.3f}")


if __name__ == "__main__":
    main()
