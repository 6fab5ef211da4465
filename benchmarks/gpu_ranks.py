"""On several CUDA devices of one host, with NCCL: what a capture and the check of replicas cost each rank.

    PYTHONPATH=src:. torchrun --nproc-per-node 2 -m benchmarks.gpu_ranks             # a row on every rank
    PYTHONPATH=src:. torchrun --nproc-per-node 2 -m benchmarks.gpu_ranks 4 tensor    # rows, and only these ways

A Llama of the 1B shape in bfloat16, rows of 8192 tokens. Ratios are of medians of a step's time, to the plain step of the
same program: what a capture costs is Python for every call, so its ratio falls with the rows. Nothing is asserted: this
is a measurement.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from benchmarks.gpu_capture import SHAPES, llama, timed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import whydiff
from whydiff.capturing.adapters.torch.session import Session

STEPS, FIRST, ROUNDS = 8, 3, 3
"""Steps of a round, how many of them are not counted, and rounds."""


def split(model: Any, way: str, rank: int, ranks: int) -> Any:
    """The model on this rank: replicated, in shards, or each layer in parts."""
    if way == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])
    if way == "fsdp":
        for layer in model.model.layers:
            fully_shard(layer)
        return fully_shard(model)
    names = {f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"} | {
        "self_attn.o_proj": RowwiseParallel(),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(),
    }
    mesh = init_device_mesh("cuda", (ranks,))
    for layer in model.model.layers:
        parallelize_module(layer, mesh, names)
    return model


def steps(step: Callable[[], None], around: AbstractContextManager[Any]) -> float:
    """Median seconds of the counted steps of a round."""
    with around:
        times = [timed(step) for _ in range(STEPS)]
    return statistics.median(times[FIRST:])


def main() -> None:
    """Print the ratios of every way; rank 0 speaks."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    shape = SHAPES["1B"]
    rows = int(next(iter(sys.argv[1:]), 1))
    ids = torch.randint(0, 32000, (rows, shape[-1]), device="cuda")
    for way in sys.argv[2:] or ("ddp", "fsdp", "tensor"):
        model = split(llama(shape), way, rank, ranks)
        model.train()
        groups: tuple[list[Any], list[Any]] = ([], [])
        for parameter in model.parameters():  # no optimizer mixes the two
            groups[isinstance(parameter, DTensor)].append(parameter)
        optimizer = torch.optim.AdamW([{"params": group} for group in groups if group], lr=1e-5, fused=True)

        def step(model: Any = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()

        steps(step, nullcontext())
        found: dict[str, list[float]] = {"plain": [], "log of steps": [], "capture": []}
        for _ in range(ROUNDS):
            found["plain"].append(steps(step, nullcontext()))
            with tempfile.TemporaryDirectory() as folder:
                found["log of steps"].append(steps(step, whydiff.capture(f"{folder}/log", level="step")))
            found["capture"].append(one_step_each(step))
        plain = statistics.median(found["plain"])
        if rank == 0:
            said = ", ".join(f"{name} x {statistics.median(times) / plain:.3f}" for name, times in found.items())
            print(f"{way}, {ranks} ranks, {rows} rows, plain {1e3 * plain:.1f} ms: {said}", flush=True)
        del model, optimizer, step
        torch.cuda.empty_cache()
    dist.destroy_process_group()


def one_step_each(step: Callable[[], None]) -> float:
    """Median seconds of a step that is captured alone, tensors by fingerprints."""

    def captured() -> None:
        with Session():
            step()

    return statistics.median([timed(captured) for _ in range(4)][1:])


if __name__ == "__main__":
    main()
