"""Training steps of a small GPT on one GPU or, under torchrun, several: ``rank_program.py WAY DTYPE``."""

import os
import sys

import torch
import torch.distributed as dist
from tests.rank_programs import _model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional

way, dtype = sys.argv[1], getattr(torch, sys.argv[2])
rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
torch.cuda.set_device(rank)
if ranks > 1:
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
torch.manual_seed(0)
model = _model().to("cuda", dtype)
if ranks > 1 and way == "ddp":
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])
elif ranks > 1 and way == "fsdp":
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
elif ranks > 1 and way == "tensor":
    plan = {name: ColwiseParallel() for name in ("q", "k", "v", "up")} | {n: RowwiseParallel() for n in ("o", "down")}
    for block in model.blocks:
        parallelize_module(block, init_device_mesh("cuda", (ranks,)), plan)
placed = [p for p in model.parameters() if isinstance(p, DTensor)]
groups = [placed, [p for p in model.parameters() if not isinstance(p, DTensor)]]  # no optimizer mixes the two
optimizer = torch.optim.AdamW([{"params": group} for group in groups if group], lr=0.01)
tokens = torch.randint(0, 64, (6 if way == "drift" else 2, 4, 9), generator=torch.Generator().manual_seed(5)).cuda()
for number, batch in enumerate(tokens):
    mine = batch.chunk(ranks)[rank] if way in ("ddp", "fsdp") else batch
    optimizer.zero_grad()
    functional.cross_entropy(model(mine[:, :-1]).float().reshape(-1, 64), mine[:, 1:].reshape(-1)).backward()
    if way == "drift" and rank == 1 and number == 3:
        with torch.no_grad():
            model.head.weight[0, 0] *= 1 + 2.0**-23
    optimizer.step()
if ranks > 1:
    dist.destroy_process_group()
