"""Build a small ColBERT index with colbert-ai: ``python colbert_build.py OUT PASSAGES`` (in its own venv).

The checkpoint is MiniLM-L6's real weights with a fixed projection to 128 numbers, because no pretrained
ColBERT is on the package registry: distances between passages mean little, the arithmetic is the real one.
The embeddings that are assigned to centroids are kept beside the codes (``0.embeddings.npy``), which
colbert-ai itself drops.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from colbert import Indexer
from colbert.indexing import index_saver
from colbert.infra import ColBERTConfig, Run, RunConfig
from safetensors.torch import load_file, save_file

from whydiff.cli.demos import minilm

WORDS = (  # noqa: SIM905 - readable
    "river stone engine violet harbour copper ladder winter signal orchard marble thunder lantern "
    "meadow compass velvet canyon ember glacier anchor saddle prairie beacon timber falcon quartz "
    "willow summit island tunnel mirror garden castle bridge desert market silver window letter "
    "candle"
).split()


def checkpoint(folder: Path) -> Path:
    """MiniLM's BERT and a projection that is the same everywhere (a table of integers, no random numbers)."""
    source = minilm.checkpoint()
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy(file, folder / file.name)
    weights = load_file(source / "model.safetensors")
    place = torch.arange(128 * 384, dtype=torch.int64)
    linear = (((place * 7919) % 2003) - 1001).float().reshape(128, 384) / 16384
    tensors = {f"bert.{k.removeprefix('bert.')}": v.contiguous() for k, v in weights.items()}
    save_file({**tensors, "linear.weight": linear}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    return folder


def passages(count: int) -> list[str]:
    """Short made-up texts, the same everywhere."""
    return [" ".join(WORDS[(i * 31 + j * (7 + i % 11)) % len(WORDS)] for j in range(8 + i % 9)) for i in range(count)]


def main() -> None:
    out, count = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    save_chunk = index_saver.IndexSaver.save_chunk

    def keeping(self: object, chunk: int, offset: int, embs: torch.Tensor, doclens: list[int]) -> None:
        np.save(Path(self.config.index_path_) / f"{chunk}.embeddings.npy", embs.numpy())  # type: ignore[attr-defined]
        save_chunk(self, chunk, offset, embs, doclens)

    index_saver.IndexSaver.save_chunk = keeping
    with tempfile.TemporaryDirectory() as work:
        model = Path(work) / "model"
        model.mkdir()
        run = RunConfig(nranks=1, root=work, experiment="e", avoid_fork_if_possible=True)
        with Run().context(run):
            config = ColBERTConfig(dim=128, nbits=2, doc_maxlen=32, kmeans_niters=4, index_bsize=32)
            Indexer(str(checkpoint(model)), config=config).index("i", collection=passages(count), overwrite=True)
        built = next(Path(work).rglob("metadata.json")).parent
        shutil.copytree(built, out, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
