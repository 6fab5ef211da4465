"""Ordinary programs: models, training, layouts, hooks."""

from __future__ import annotations

import copy
import gc
import random
import warnings
import weakref
from typing import Any

import numpy as np
import torch
from tests.scores.zoo.kind import kind
from tests.scores.zoo.models import Attention, mlp, trained
from torch import nn


@kind(sees="addmm")
def multilayer() -> Any:
    return mlp()(torch.ones(3, 8))


@kind(sees="add_")
def training() -> Any:
    model = mlp()
    return trained(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


@kind(sees="bernoulli_")
def dropout_and_batch_norm() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    return trained(model, torch.optim.AdamW(model.parameters())), model[1].running_mean


@kind(sees="bmm")
def attention() -> Any:
    torch.manual_seed(0)
    return Attention()(torch.randn(2, 5, 8))


@kind()
def recurrent() -> Any:
    torch.manual_seed(0)
    lstm, gru = nn.LSTM(4, 6, 2, batch_first=True), nn.GRU(6, 3)
    hidden, state = lstm(torch.randn(2, 5, 4))
    return gru(hidden), state


@kind()
def parametrised() -> Any:
    torch.manual_seed(0)
    one = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    other = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    return other(one(torch.ones(2, 4))), sorted(other.state_dict())


@kind()
def checkpointed() -> Any:
    from torch.utils.checkpoint import checkpoint

    model = mlp()
    x = torch.ones(2, 8, requires_grad=True)
    checkpoint(model, x, use_reentrant=False).sum().backward()
    return x.grad, [p.grad for p in model.parameters()]


@kind()
def own_backward() -> Any:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
            context.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 2 + context.saved_tensors[0] * 0

    x = torch.ones(3, requires_grad=True)
    Twice.apply(x).sum().backward()
    return x.grad


@kind()
def backward_twice() -> Any:
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return first, second


@kind()
def hooks() -> Any:
    model, log = mlp(), []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda m, a, n=name: log.append(("before", n)))
        module.register_forward_hook(lambda m, a, o, n=name: log.append(("after", n)))
        module.register_full_backward_hook(lambda m, i, o, n=name: log.append(("backward", n)))
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, o: log.append("global"))
    try:
        model(torch.ones(2, 8, requires_grad=True)).sum().backward()
    finally:
        handle.remove()
    return log


@kind()
def saved_tensor_hooks() -> Any:
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (packed.append(tuple(t.shape)), t)[1], lambda t: t):
        mlp()(torch.ones(2, 8)).sum().backward()
    return packed


@kind()
def an_error_that_is_caught() -> Any:
    class Refuses(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x + 1
            raise ValueError("not today")
            return y

    model, refuses = mlp(), Refuses()
    try:
        refuses(torch.ones(2))
    except ValueError as error:
        text = str(error)
    return text, model(torch.ones(2, 8))


@kind()
def an_op_that_fails() -> Any:
    try:
        torch.ones(2, 3) @ torch.ones(2, 3)
    except RuntimeError as error:
        return str(error), mlp()(torch.ones(1, 8))
    return None


@kind(ends="ZeroDivisionError")
def an_error_that_ends_it() -> Any:
    mlp()(torch.ones(1, 8))
    return 1 / 0


@kind()
def memory_is_let_go() -> Any:
    """Activations and batches must die when the program lets go of them."""
    model, dead = mlp(), []
    for _ in range(2):
        batch = torch.ones(4, 8)
        activation = model[0](batch)
        watched = weakref.ref(activation), weakref.ref(batch)
        with torch.no_grad():
            model(batch)
        del activation, batch
        gc.collect()
        dead.append([one() is None for one in watched])
    return dead[0][0], dead[1]


@kind()
def storage_that_is_resized() -> Any:
    """What sharding libraries do: give memory back, and take it again."""
    torch.manual_seed(0)
    model = mlp()
    weight = model[0].weight
    kept = weight.detach().clone()
    model(torch.ones(1, 8))
    view = weight.detach()[:, ::2].sum()
    with torch.no_grad():
        weight.untyped_storage().resize_(0)
        weight.untyped_storage().resize_(kept.numel() * 4)
        weight.copy_(kept)
    return model(torch.ones(1, 8)), view


@kind()
def data_that_is_swapped() -> Any:
    model = mlp()
    model(torch.ones(1, 8))
    model[0].weight.data = torch.full((16, 8), 0.5)
    model[0].bias.data.set_(torch.zeros(16))
    return model(torch.ones(1, 8))


@kind()
def views_and_strides() -> Any:
    x = torch.arange(24.0)
    x.as_strided((3, 4), (1, 2), 2).mul_(2)
    x[3:9].view(2, 3).t().add_(1)
    y = x.view(2, 3, 4).permute(2, 0, 1)
    return y, y.contiguous(), x.unfold(0, 4, 2), torch.broadcast_to(x[:1], (3, 1))


@kind()
def complex_numbers() -> Any:
    x = torch.complex(torch.arange(3.0), torch.ones(3))
    return x.conj() * x, torch.fft.rfft(torch.arange(8.0)), x.conj().imag


@kind(op=["opaque"])
def sparse() -> Any:
    x = torch.eye(4).to_sparse()
    return (x @ torch.ones(4, 2)), (x * 2).to_dense()


@kind(both=["opaque"])
def quantised() -> Any:
    class Quantises(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)

    return Quantises()(torch.arange(4.0)).dequantize()


@kind(both=["fake"])
def meta() -> Any:
    with torch.device("meta"):
        model = nn.Linear(4, 4)
        return tuple(model(torch.ones(2, 4)).shape)


@kind()
def inference_mode() -> Any:
    with torch.inference_mode():
        y = mlp()(torch.ones(2, 8))
        y += 1
        return y.clone()


@kind()
def autocast() -> Any:
    model = mlp()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(torch.ones(2, 8)).float().square().mean()
    loss.backward()
    return loss, [p.grad for p in model.parameters()]


@kind()
def scaled_gradients() -> Any:
    model = mlp()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=8.0)
    with torch.autocast("cpu"):
        loss = model(torch.ones(2, 8)).float().sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return scaler.get_scale(), list(model.parameters())


@kind()
def shared_with_numpy() -> Any:
    array = np.arange(6.0)
    tensor = torch.from_numpy(array)
    tensor += 1
    array[0] = 40.0
    return array, tensor * 2, tensor.numpy() is not array


@kind()
def versions_of_tensors() -> Any:
    model, x = mlp(), torch.ones(2, 8)
    y = model(x)
    return x._version, y._version, [p._version for p in model.parameters()], model[0].weight.is_leaf


@kind()
def random_streams() -> Any:
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    y = torch.dropout(mlp()(torch.ones(2, 8)), 0.5, True)
    return y, torch.rand(2), random.random(), np.random.rand(2), torch.get_rng_state()


@kind()
def warned() -> Any:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.ones(2, 2).t_().T.mT  # noqa: B018
        nn.functional.mse_loss(torch.ones(2, 1), torch.ones(2))
        mlp()(torch.ones(1, 8))
    return [str(one.message) for one in seen]


@kind()
def anomaly_mode() -> Any:
    model = mlp()
    with torch.autograd.detect_anomaly(check_nan=True):
        model(torch.ones(2, 8)).sum().backward()
    return [p.grad for p in model.parameters()]


@kind()
def profiled() -> Any:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        return mlp()(torch.ones(2, 8))


@kind()
def saved_and_copied() -> Any:
    import io

    model, file = mlp(), io.BytesIO()
    model(torch.ones(1, 8))
    torch.save(model.state_dict(), file)
    other = copy.deepcopy(model)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    return other(torch.ones(2, 8)), len(file.getvalue())


@kind()
def another_call() -> Any:
    class Calls(nn.Module):
        def __call__(self, x: torch.Tensor, *, scale: float = 1.0) -> Any:
            return {"y": super().__call__(x) * scale}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    return Calls()(torch.ones(2), scale=2.0)


@kind(sees="add")
def own_operator() -> Any:
    @torch.library.custom_op("zoo::bump", mutates_args={"x"})
    def bump(x: torch.Tensor, by: float) -> torch.Tensor:
        x.add_(by)
        return x * 2

    x = torch.ones(3)
    return bump(x, 2.0), x, x + 1
