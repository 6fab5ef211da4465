"""Training loops and pipelines of libraries, and programs written as they write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tests.scores.zoo.kind import kind
from tests.scores.zoo.models import Attention, mlp
from torch import nn


@kind(needs=("accelerate",))
def accelerated() -> Any:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 8)), batch_size=2)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    losses = []
    for (batch,) in data:
        with accelerator.accumulate(model):
            loss = model(batch).square().mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    return losses, list(model.parameters())


@kind(needs=("lightning",))
def lightning() -> Any:
    import lightning as L

    class Learner(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.losses = mlp(), []

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            loss = self.model(batch[0]).square().mean()
            self.losses.append(loss.detach())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 8)), batch_size=2)
    learner = Learner()
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet).fit(learner, data)
    return learner.losses


@kind()
def lightning_like() -> Any:
    """A closure given to the optimizer, hooks by name, gradients clipped, a scheduler."""

    class Learner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.log = mlp(), []

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            return self.model(batch).square().mean()

    learner = Learner()
    optimizer = torch.optim.LBFGS(learner.parameters(), lr=0.1, max_iter=3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(2):

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = learner.training_step(torch.ones(2, 8))
            loss.backward()
            nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            learner.log.append(loss.detach())
            return loss

        optimizer.step(closure)
        schedule.step()
    return learner.log, list(learner.parameters())


@kind(needs=("diffusers",))
def diffusers() -> Any:
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    pipeline = DDIMPipeline(net, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline(num_inference_steps=2, generator=generator, output_type="np").images


@kind()
def diffusers_like() -> Any:
    @dataclass
    class Result:
        sample: torch.Tensor

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.config = nn.Conv2d(1, 1, 3, padding=1), {"channels": 1}

        def forward(self, sample: torch.Tensor, timestep: Any, return_dict: bool = True) -> Any:
            return Result(self.inner(sample) * timestep) if return_dict else (sample,)

    class Pipeline:
        def __init__(self) -> None:
            torch.manual_seed(0)
            self.net = Net()

        @torch.no_grad()
        def __call__(self, steps: int, generator: torch.Generator, callback: Any) -> torch.Tensor:
            x = torch.randn(1, 1, 4, 4, generator=generator)
            for number, t in enumerate(torch.linspace(1, 0, steps)):
                x = x - 0.1 * self.net(x, t).sample + 0.01 * torch.randn(x.shape, generator=generator)
                callback(number, t, x)
            return x

    seen: list[Any] = []
    image = Pipeline()(3, torch.Generator().manual_seed(0), lambda n, t, x: seen.append((n, t.item(), x.sum())))
    return image, seen


@kind(needs=("transformers",))
def generation() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=32)).eval()
    ids = torch.tensor([[1, 2, 3]])
    return model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0), model(ids).logits


@kind(needs=("transformers",))
def sampling() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape: Any = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 50, "max_position_embeddings": 32}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, num_attention_heads=2, **shape)).eval()
    torch.manual_seed(1)
    return model.generate(torch.tensor([[1, 2]]), max_new_tokens=4, do_sample=True, pad_token_id=0)


@kind()
def distributed() -> Any:
    """One process of a group; collectives are ops as well."""
    import tempfile

    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    with tempfile.NamedTemporaryFile() as file:
        dist.init_process_group("gloo", init_method=f"file://{file.name}", rank=0, world_size=1)
        try:
            model = mlp()
            parallel = DistributedDataParallel(model)
            parallel(torch.ones(2, 8)).sum().backward()
            total = torch.ones(3)
            dist.all_reduce(total)
            return total, [p.grad for p in model.parameters()]
        finally:
            dist.destroy_process_group()


@kind(sees="chunk_cat")  # FSDP's own operators, which were opaque once, are recorded
def sharded() -> Any:
    import tempfile

    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with tempfile.NamedTemporaryFile() as file:
        dist.init_process_group("gloo", init_method=f"file://{file.name}", rank=0, world_size=1)
        try:
            model = nn.Sequential(mlp(), Attention())
            model = mlp()
            mesh = init_device_mesh("cpu", (1,))
            for layer in model:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            y = model(torch.ones(2, 8))
            y.sum().backward()
            return y, [p.grad.full_tensor() for p in model.parameters()]
        finally:
            dist.destroy_process_group()


@kind(needs=("jax",))
def jax_in_between() -> Any:
    """A JAX program with a callback, and torch before and after it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    seen: list[float] = []

    @jax.jit
    def steps(x: Any) -> Any:
        y = jax.pure_callback(lambda v: np.sin(v), jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        jax.debug.callback(lambda v: seen.append(float(v)), y.sum())
        return y * 2

    before = mlp()(torch.ones(1, 8))
    result = np.asarray(jax.block_until_ready(steps(jnp.arange(3.0))))
    jax.effects_barrier()
    return before, result, seen, torch.from_numpy(result.copy()) + 1
