"""Real MiniLM weights at many batch sizes and lengths: does the sweep say what plain torch says, and how fast?

    PYTHONPATH=src python benchmarks/sweep_minilm.py --dtype float32 --batch 1,2,4,8,16,32 --length 61..128
    PYTHONPATH=src python benchmarks/sweep_minilm.py --dtype float32 --batch 1..64 --length 1..8 --remedy 64

Every cell is checked against ``torch.equal`` on plain runs that whydiff has no part in. ``--remedy ROWS`` checks
every row of every size bit for bit in the batch-invariant mode as well, and measures its cost.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import torch

import whydiff
from whydiff.cli.demos import minilm
from whydiff.studies.sweep.program import sizes


def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
    """Random token ids; the first rows and positions are the same at every size."""
    ids = torch.randint(1000, 20000, (64, 128), generator=torch.Generator().manual_seed(0))[:batch, :length]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def plain(model: Any, batch: int, length: int) -> list[torch.Tensor]:
    found = model(**inputs(batch, length))
    return [found.last_hidden_state, found.pooler_output]


def check(model: Any, study: Any) -> list[str]:
    """Cells in which the sweep and plain torch disagree."""
    wrong = []
    alone: dict[int, list[torch.Tensor]] = {}
    for cell in study.cells:
        length = cell.size.length
        if length not in alone:
            alone = {length: plain(model, 1, length)}
        pairs = zip(alone[length], plain(model, cell.size.batch, length), strict=True)
        if all(torch.equal(one, many[:1]) for one, many in pairs) != cell.outputs_equal:
            wrong.append(str(cell.size))
    return wrong


def remedy(model: Any, batches: tuple[int, ...], lengths: tuple[int, ...], rows: int) -> dict[str, Any]:
    """Rows of every size that are not bit-equal to the row alone in the batch-invariant mode."""
    wrong, compared, costs = [], 0, []
    for length in lengths:
        largest = max(batches)
        with whydiff.batch_invariant(model, ops=("addmm",), rows=rows):
            full = inputs(largest, length)
            alone = [model(**{k: v[r : r + 1] for k, v in full.items()}) for r in range(largest)]
            for batch in batches:
                many = plain(model, batch, length)
                for r in range(batch):
                    compared += 1
                    same = torch.equal(many[0][r], alone[r].last_hidden_state[0]) and torch.equal(
                        many[1][r], alone[r].pooler_output[0]
                    )
                    if not same:
                        wrong.append((length, batch, r))
        costs.append((length, *timed(model, largest, length, rows)))
    return {"rows": rows, "compared": compared, "wrong": wrong[:10], "count": len(wrong), "cost": costs}


def timed(model: Any, batch: int, length: int, rows: int) -> tuple[float, float]:
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(5):
        began = time.perf_counter()
        plain(model, batch, length)
        times[False].append(time.perf_counter() - began)
        with whydiff.batch_invariant(model, ops=("addmm",), rows=rows):
            began = time.perf_counter()
            plain(model, batch, length)
            times[True].append(time.perf_counter() - began)
    base = statistics.median(times[False])
    return round(base, 4), round(statistics.median(times[True]) / base, 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", default="1,2,4,8,16,32")
    parser.add_argument("--length", default="61..128")
    parser.add_argument("--remedy", type=int, default=0)
    parser.add_argument("--resume")
    parser.add_argument("--save")
    asked = parser.parse_args()
    model = minilm.build()[0].to(getattr(torch, asked.dtype))
    torch.set_grad_enabled(False)
    if asked.remedy:
        print(json.dumps(remedy(model, sizes(asked.batch), sizes(asked.length), asked.remedy)))
        return
    began, worked = time.perf_counter(), time.process_time()
    study = whydiff.sweep(model, inputs, batch=asked.batch, length=asked.length, remedies=False, resume=asked.resume)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    if asked.save:
        study.save(asked.save)
    wrong = check(model, study)
    print(
        json.dumps(
            {
                "dtype": asked.dtype,
                "cells": len(study.cells),
                "seconds": round(seconds, 1),
                "cpu seconds": round(worked, 1),
                "cells that plain torch contradicts": wrong,
                "verdict": str(study.verdict),
                "causes": [c.code for c in study.causes],
                "false origins downstream": sum(c.accounted is False for c in study.cells),
                "ops": sorted({(f.op, f.kind) for c in study.cells for f in c.found}),
                "lengths (differ, agree, both)": study.separation("length"),
                "batches (differ, agree, both)": study.separation("batch"),
                "classes": [[c.what, c.where, c.groups] for c in study.classes][:8],
                "threads": torch.get_num_threads(),
                "load": os.getloadavg(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
