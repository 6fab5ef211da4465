"""Programs that one process or two ranks run, for tests of ranks: ``program(rank, how many)``."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any

from whydiff.explain.causes._rank_runs import recorded

HELD = Lock()
"""What a thread of the test holds while ranks run."""
Program = Callable[[int, int], None]
PARALLEL = tuple((way, dtype) for way in ("ddp", "fsdp", "tensor") for dtype in ("float32", "bfloat16"))
"""Ways of splitting a model or its batch, and dtypes."""


def recorded_once(program: Callable[[int, int], Any], ranks: int = 1) -> str:
    """The trace of a program, which tests that only read it share."""
    how = (program.func, program.args, tuple(program.keywords.items())) if isinstance(program, partial) else program
    if (how, ranks) not in _RECORDED:
        _RECORDED[how, ranks] = recorded(program, ranks)
    return _RECORDED[how, ranks]


_RECORDED: dict[tuple[Any, int], str] = {}


def gpt(way: str, dtype: str, steps: int = 2) -> Program:
    """Training steps of a GPT of two layers."""
    return partial(_gpt, way, dtype, steps)


def _gpt(way: str, dtype: str, steps: int, rank: int, ranks: int) -> None:
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    model: Any = _model().to(getattr(torch, dtype))
    if ranks > 1:
        model = _split(model, way, ranks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.randint(0, 64, (steps, 4, 9), generator=torch.Generator().manual_seed(5))
    for batch in tokens:
        mine = batch.chunk(ranks)[rank] if way in ("ddp", "fsdp") else batch
        optimizer.zero_grad()
        logits = model(mine[:, :-1])
        functional.cross_entropy(logits.float().reshape(-1, 64), mine[:, 1:].reshape(-1)).backward()
        optimizer.step()


def _split(model: Any, way: str, ranks: int) -> Any:
    import torch

    if way == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    if way == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for block in model.blocks:
            fully_shard(block)
        return fully_shard(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {name: ColwiseParallel() for name in ("q", "k", "v", "up")} | {n: RowwiseParallel() for n in ("o", "down")}
    mesh = init_device_mesh("cpu", (ranks,))
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    return model


def _model(width: int = 32) -> Any:
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, length, _ = x.shape
            h = self.n1(x)
            q, k, v = (f(h).view(batch, length, -1, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.o(mixed.transpose(1, 2).reshape(batch, length, -1))
            return x + self.down(functional.gelu(self.up(self.n2(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.blocks = nn.Embedding(64, width), nn.ModuleList([Block(), Block()])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 64, bias=False)

        def only(self, stage: int, stages: int) -> None:
            """Keep one stage of a pipeline."""
            self.blocks = nn.ModuleDict({str(i): b for i, b in enumerate(self.blocks) if i % stages == stage})
            if stage > 0:
                self.emb = None
            if stage < stages - 1:
                self.norm = self.head = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.emb(x) if self.emb is not None else x
            for block in self.blocks.values() if isinstance(self.blocks, nn.ModuleDict) else self.blocks:
                x = block(x)
            return self.head(self.norm(x)) if self.head is not None else x

    return Model()


def piped(dtype: str, steps: int = 2, *, told: bool = True, wrong: bool = False) -> Program:
    """Training steps of the same GPT in two stages, a block each, on two micro-batches; one process takes both itself.

    ``told``: stages know shapes beforehand, and take no pass to find them; ``wrong``: the second stage scales its input.
    """
    return partial(_piped, dtype, steps, told, wrong)


def _piped(dtype: str, steps: int, told: bool, wrong: bool, rank: int, ranks: int) -> None:
    import torch
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
    from torch.nn import functional

    def loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.float().reshape(-1, 64), wanted.reshape(-1))

    torch.manual_seed(0)
    model: Any = _model().to(getattr(torch, dtype))
    tokens = torch.randint(0, 64, (steps, 4, 9), generator=torch.Generator().manual_seed(5))
    if ranks > 1:
        model.only(rank, ranks)
        if wrong and rank == 1:
            model.blocks["1"].n1.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        given, made = (
            torch.zeros(2, 8, dtype=torch.int64),
            torch.zeros(2, 8, 32, dtype=getattr(torch, dtype), requires_grad=True),
        )
        logits = torch.zeros(2, 8, 64, dtype=getattr(torch, dtype), requires_grad=True)
        shapes: Any = {"input_args": given if rank == 0 else made, "output_args": made if rank == 0 else logits}
        stage = PipelineStage(model, rank, ranks, torch.device("cpu"), **(shapes if told else {}))
        schedule = ScheduleGPipe(stage, 2, loss_fn=loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in tokens:
        optimizer.zero_grad()
        given, wanted = batch[:, :-1].contiguous(), batch[:, 1:]  # some versions hold a stage to its strides
        if ranks == 1:
            losses = [loss(model(x), y) for x, y in zip(given.chunk(2), wanted.chunk(2), strict=True)]
            for one in losses:
                one.backward()
            for parameter in model.parameters():
                parameter.grad.div_(2)
        elif rank == 0:
            schedule.step(given)
        else:
            schedule.step(target=wanted)
        optimizer.step()


def clipped(local: bool) -> Program:
    """Clipped gradient descent; ``local``: every rank takes the norm of its share of the gradients for the whole."""
    return partial(_clipped, local)


def _clipped(local: bool, rank: int, ranks: int) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn import functional

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.GELU(), torch.nn.Linear(24, 4))
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(3, 16, 12, generator=generator)
    labels = torch.randint(0, 4, (3, 16), generator=generator)
    for x, y in zip(rows, labels, strict=True):
        model.zero_grad()
        functional.cross_entropy(model(x.chunk(ranks)[rank]), y.chunk(ranks)[rank]).backward()
        gradients: Any = [parameter.grad for parameter in parameters]
        for gradient in gradients if ranks > 1 else ():
            dist.all_reduce(gradient)
            gradient.div_(ranks)
        mine = range(rank, len(parameters), ranks) if local else range(len(parameters))
        norm = torch.linalg.vector_norm(torch.stack([gradients[i].norm() for i in mine]))
        with torch.no_grad():
            for i in mine:
                parameters[i].sub_(0.5 * gradients[i] * (0.1 / norm).clamp(max=1))
            for i, parameter in enumerate(parameters if local and ranks > 1 else ()):
                dist.broadcast(parameter, i % ranks)


def replicas(drift: float, step: int = 3) -> Program:
    """The same steps on the same rows everywhere; on rank 1 a weight drifts before a step."""
    return partial(_replicas, drift, step)


def _replicas(drift: float, step: int, rank: int, ranks: int) -> None:
    import torch

    torch.manual_seed(0)
    model: Any = torch.nn.Linear(8, 4)
    rows = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(1))
    for number, x in enumerate(rows):
        if drift and rank == 1 and number == step:
            with torch.no_grad():
                model.weight[0, 0] *= 1 + drift
        model(x).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=0.1)
                parameter.grad = None


def locked(rank: int, ranks: int) -> None:
    """Takes a lock."""
    with HELD:
        replicas(0.0)(rank, ranks)


def failing(rank: int, ranks: int) -> None:
    """Rank 1 fails, and the others wait for it."""
    import torch

    if rank == 1:
        raise ValueError("no rows are left")
    torch.distributed.barrier()


def killed(rank: int, ranks: int) -> None:
    """The last rank dies without a word."""
    if rank == ranks - 1:
        os._exit(7)


def mismatched(how: str) -> Program:
    """After two collectives that are the same, rank 1 calls something else; nothing is sent, so that nobody hangs."""
    return partial(_mismatched, how)


def _mismatched(how: str, rank: int, ranks: int) -> None:
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed import fake_pg  # noqa: F401 - its import makes the backend known

    group, other = dist.new_group(backend="fake"), rank == 1
    model = torch.nn.Linear(4, 4)
    for step in range(2):
        x = model(torch.ones(2, 4)).detach()
        dist.all_reduce(x, group=group)
        if step == 0 or not other or how == "same":
            dist.all_reduce(x, group=group)
        elif how == "kind":
            dist.broadcast(x, 0, group=group)
        elif how == "shape":
            dist.all_reduce(x[:1].clone(), group=group)
        elif how == "dtype":
            dist.all_reduce(x.double(), group=group)
        elif how == "reduction":
            dist.all_reduce(x, dist.ReduceOp.MAX, group=group)
