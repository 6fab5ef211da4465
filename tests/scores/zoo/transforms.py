"""Functional transforms, wrapper tensors, modes and tracers."""

from __future__ import annotations

from typing import Any

import torch
from tests.scores.zoo.kind import kind
from tests.scores.zoo.models import Attention, mlp
from torch import nn


@kind(sees="tanh")
def vmapped() -> Any:
    return torch.vmap(lambda x: torch.tanh(x) @ x)(torch.arange(6.0).reshape(2, 3))


@kind(both=["opaque"])
def ensemble() -> Any:
    models = [mlp() for _ in range(3)]
    with torch.no_grad():
        models[1][0].weight.mul_(2)
    parameters, buffers = torch.func.stack_module_state(models)
    base = mlp()

    def one(parameters: Any, buffers: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(base, (parameters, buffers), (x,))

    return torch.vmap(one, in_dims=(0, 0, None))(parameters, buffers, torch.ones(2, 8))


@kind(both=["opaque"])
def gradients_as_a_function() -> Any:
    model = mlp()
    parameters = dict(model.named_parameters())

    def loss(parameters: Any) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, (torch.ones(2, 8),)).sum()

    return torch.func.grad_and_value(loss)(parameters)


@kind(both=["opaque"])
def gradients_per_sample() -> Any:
    model = mlp()
    parameters = dict(model.named_parameters())

    def loss(parameters: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, (x,)).sum()

    return torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, torch.eye(3, 8))


@kind(sees="sin")
def jacobians() -> Any:
    x = torch.arange(3.0)
    return torch.func.jacrev(torch.sin)(x), torch.func.jacfwd(torch.sin)(x)


@kind(op=["fake"])  # shapes of zeros without memory are worked out on the meta device
def hessian() -> Any:
    return torch.func.hessian(lambda x: (x**3).sum())(torch.arange(3.0))


@kind()
def forward_derivative() -> Any:
    return torch.func.jvp(torch.tanh, (torch.arange(3.0),), (torch.ones(3),))


@kind(op=["fake"])
def dual_numbers() -> Any:
    import torch.autograd.forward_ad as ad

    model = mlp()
    with ad.dual_level():
        return ad.unpack_dual(model(ad.make_dual(torch.ones(2, 8), torch.ones(2, 8))))


@kind()
def functionalised() -> Any:
    def changes(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y.add_(1)
        return y.view(-1) * 2

    return torch.func.functionalize(changes)(torch.ones(2, 2))


@kind(both=["fake"])
def fake_tensors() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = mlp()
        y = model(torch.ones(5, 8))
    return tuple(y.shape), type(y).__name__


@kind(both=["tracing"])
def traced_by_jit() -> Any:
    traced = torch.jit.trace(mlp(), torch.ones(2, 8))
    return str(traced.graph), traced(torch.ones(3, 8))


@kind()
def scripted() -> Any:
    scripted = torch.jit.script(mlp())
    return scripted(torch.ones(2, 8)), scripted(torch.ones(2, 8))


@kind(op=["tracing", "fake"])
def made_into_a_graph() -> Any:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda x: torch.sin(x) * 2 + 1)(torch.ones(3))
    return graph.code, graph(torch.arange(3.0))


@kind()
def traced_by_fx() -> Any:
    graph = torch.fx.symbolic_trace(mlp())
    return graph.code, graph(torch.ones(2, 8))


@kind(both=["tracing"])
def exported() -> Any:
    exported = torch.export.export(mlp(), (torch.ones(2, 8),))
    return exported.graph_module.code, exported.module()(torch.ones(2, 8))


@kind(both=["tracing"])
def exported_strictly() -> Any:
    exported = torch.export.export(mlp(), (torch.ones(2, 8),), strict=True)
    return exported.graph_module.code, exported.module()(torch.ones(2, 8))


@kind(both=["opaque"])
def nested_and_jagged() -> Any:
    class Doubles(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    x = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)
    return Doubles()(x).values()


@kind(both=["opaque"])
def nested_and_strided() -> Any:
    x = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
    return nn.Linear(3, 2, bias=False)(x).to_padded_tensor(0.0).shape


@kind(both=["opaque"])
def wrapper_subclass() -> Any:
    from torch.testing._internal.two_tensor import TwoTensor

    y = mlp()(TwoTensor(torch.ones(2, 8), torch.zeros(2, 8)))
    return y.a, y.b


@kind()
def named_subclass() -> Any:
    calls: list[str] = []

    class Named(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(getattr(func, "__name__", "?"))
            return super().__torch_function__(func, types, args, kwargs or {})

    x = torch.ones(2, 8).as_subclass(Named)
    y = mlp()(x) * 2
    return type(y).__name__, calls, y.as_subclass(torch.Tensor)


@kind()
def function_mode() -> Any:
    """A user's mode must see the program's calls and none of the capture's."""

    class Counts(torch.overrides.TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(getattr(func, "__name__", str(func)))
            return func(*args, **(kwargs or {}))

    model = mlp()
    with Counts() as counts:
        y = model(torch.ones(2, 8))
        torch.relu_(y)
    return counts.seen, y


@kind()
def dispatch_mode() -> Any:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counts(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    model = mlp()
    with Counts() as counts:
        y = model(torch.ones(2, 8))
    return counts.seen, y


@kind()
def deterministic_switches() -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        return torch.zeros(3).index_add(0, torch.tensor([0, 0]), torch.ones(2)), mlp()(torch.ones(1, 8))
    finally:
        torch.use_deterministic_algorithms(False)


@kind(both=["compiled"])
def compiled_function() -> Any:
    torch.compiler.reset()
    fast = torch.compile(lambda x: torch.sin(x.bfloat16() * 1.25).float(), backend="aot_eager")
    return fast(torch.arange(5.0)), fast(torch.arange(5.0))


@kind(both=["compiled"])
def compiled_as_one_graph() -> Any:
    torch.compiler.reset()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph.code)
        return graph.forward

    fast = torch.compile(lambda x, y: torch.relu(x) @ y, backend=backend, fullgraph=True)
    return fast(torch.eye(3), torch.ones(3, 3)), graphs


@kind(both=["compiled"])
def compiled_model() -> Any:
    torch.compiler.reset()
    model = torch.compile(Attention().bfloat16(), backend="aot_eager", fullgraph=True)
    torch.manual_seed(0)
    return model(torch.randn(2, 5, 8).bfloat16()).shape


@kind(both=["compiled"])
def compiled_in_place() -> Any:
    torch.compiler.reset()
    model = mlp()
    model.compile(backend="aot_eager")
    return model(torch.ones(2, 8)), model(torch.ones(2, 8))


@kind(both=["compiled"])
def compiled_training() -> Any:
    torch.compiler.reset()
    model = mlp()
    fast = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = fast(torch.ones(2, 8)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses, list(model.parameters())


@kind(both=["compiled"])
def compiled_with_a_break() -> Any:
    torch.compiler.reset()

    def broken(x: torch.Tensor) -> torch.Tensor:
        y = torch.sin(x)
        torch._dynamo.graph_break()
        return y * 2

    return torch.compile(broken, backend="aot_eager")(torch.arange(4.0))


@kind(both=["compiled"])
def conditional() -> Any:
    def branch(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))

    return branch(torch.ones(3)), branch(-torch.ones(3))


@kind(both=["compiled"])
def loop() -> Any:
    from torch._higher_order_ops.while_loop import while_loop

    return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), (torch.tensor(0), torch.ones(2)))


@kind(both=["compiled"])
def flexible_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 16, 8)
    return flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s + (i - j))
