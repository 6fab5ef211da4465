"""``python -m tests.scores.dump_writers TOOL MODEL FOLDER=EPS …``: run a model while a tool dumps it.

For the tool's own environment: nothing of whydiff is imported. The epsilon goes into one norm (`STARTS`), as a planted
mistake does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

STARTS = {"blocks": "layers.1.ln", "llama": "model.layers.1.input_layernorm"}
RIGHT = 1e-5


class Block(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.ln, self.up, self.down = nn.LayerNorm(16, eps=eps), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Any) -> Any:
        return x + self.down(nn.functional.gelu(self.up(self.ln(x))))


class Blocks(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layers = nn.ModuleList([Block(RIGHT), Block(eps)])
        self.head = nn.Linear(16, 50)

    def forward(self, ids: Any) -> Any:
        x = 0.05 * self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def blocks(eps: float) -> Any:
    torch.manual_seed(0)
    return Blocks(eps).eval()


def llama(eps: float) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=50, rms_norm_eps=RIGHT, **sizes)).eval()
    made.model.layers[1].input_layernorm.variance_epsilon = eps
    return made


def msprobe(model: Any, ids: Any, folder: Path, task: str) -> None:
    from msprobe.pytorch import PrecisionDebugger

    config = {"task": task, "dump_path": str(folder), "rank": [], "step": [], "level": "L0"}
    settings = {"scope": [], "list": [], "data_mode": ["all"]}
    config[task] = {**settings, **({"summary_mode": "statistics"} if task == "statistics" else {})}
    (path := folder.with_suffix(".json")).write_text(json.dumps(config))
    debugger = PrecisionDebugger(config_path=str(path))
    debugger.start(model=model)
    with torch.no_grad():
        model(ids)
    debugger.stop()
    debugger.step()


def debug_mode(model: Any, ids: Any, folder: Path) -> None:
    from torch.utils._debug_mode import DebugMode

    with torch.no_grad(), DebugMode(record_nn_module=True) as mode, DebugMode.log_tensor_hashes(hash_inputs=True):
        model(ids)
    (folder / "log.txt").write_text(mode.debug_string())


def debugger(model: Any, ids: Any, folder: Path, printed: bool) -> None:
    from transformers.model_debugging_utils import model_addition_debugger_context

    with (
        torch.no_grad(),
        model_addition_debugger_context(model, debug_path=str(folder), do_prune_layers=False, use_repr=printed),
    ):
        model(ids)


TOOLS: dict[str, Callable[[Any, Any, Path], None]] = {
    "msprobe-tensor": lambda model, ids, folder: msprobe(model, ids, folder, "tensor"),
    "msprobe-statistics": lambda model, ids, folder: msprobe(model, ids, folder, "statistics"),
    "debug-mode": debug_mode,
    "debugger": lambda model, ids, folder: debugger(model, ids, folder, False),
    "debugger-printed": lambda model, ids, folder: debugger(model, ids, folder, True),
}


def main() -> int:
    tool, model, *runs = sys.argv[1:]
    for run in runs:
        folder, _, eps = run.rpartition("=")
        Path(folder).mkdir(parents=True)
        TOOLS[tool]({"blocks": blocks, "llama": llama}[model](float(eps)), torch.arange(6)[None], Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
