"""MiniLM-L6 with its real weights on made-up token ids: the target of ``benchmarks.two_versions``.

As a script it saves the outputs of many lengths: ``python minilm_target.py FOLDER BATCH LENGTH …``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from whydiff.cli.demos import minilm

MODEL, _ = minilm.build()


def run(batch: int, length: int) -> torch.Tensor:
    """Last hidden state, float32 [batch, length, 384]; every fifth text is shorter and padded."""
    place = torch.arange(batch * length).reshape(batch, length)
    ids = 1000 + (place * 7919) % 20000
    mask = (torch.arange(length) < (length - 3 * (torch.arange(batch) % 5 == 4).long())[:, None]).long()
    with torch.no_grad():
        return MODEL(input_ids=ids * mask, attention_mask=mask).last_hidden_state


if __name__ == "__main__":
    folder, batch, *lengths = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for length in lengths:
        np.save(Path(folder) / f"{int(length):03d}.npy", run(int(batch), int(length)).numpy())
