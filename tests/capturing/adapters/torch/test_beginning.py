"""The way back to the beginning: the user's own objects, in their places."""

from __future__ import annotations

import collections
from typing import Any

import torch
from torch import nn

from whydiff.capturing.adapters.torch.beginning import Beginning


def test_containers_keep_their_identity_and_order() -> None:
    ordered = collections.OrderedDict(a=1, b=2)
    counts: collections.defaultdict[str, int] = collections.defaultdict(int, x=1)
    things: dict[str, Any] = {"list": [1, 2], "set": {1}, "dict": {"k": [3]}, "ordered": ordered, "counts": counts}
    beginning = Beginning([things])
    inner = things["dict"]["k"]
    things["list"].append(3)
    things["set"].add(2)
    things["dict"]["k"] = "other"
    things["dict"]["new"] = 1
    ordered.move_to_end("a")
    ordered["c"] = 3
    counts["y"] += 1
    beginning.restore()
    assert things["list"] == [1, 2] and things["set"] == {1} and things["dict"] == {"k": [3]}
    assert things["dict"]["k"] is inner and dict(counts) == {"x": 1} and "c" not in ordered


def test_order_alone_is_put_back() -> None:
    ordered = collections.OrderedDict(a=1, b=2)
    beginning = Beginning([ordered])
    ordered.move_to_end("a")
    beginning.restore()
    assert list(ordered) == ["a", "b"]


def test_modules_get_their_parts_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    first, weight, memory = model[0], model[1].weight, model[1].weight.data_ptr()
    beginning = Beginning([model])
    model[0] = nn.ReLU()
    model[1].weight.data = torch.zeros(2, 2)
    model[1].bias = None
    model.register_buffer("late", torch.ones(1))
    model.add_module("more", nn.Tanh())
    model.forward = lambda x: x  # type: ignore[method-assign]
    beginning.restore()
    assert model[0] is first and model[1].weight is weight and weight.data_ptr() == memory
    assert model[1].bias is not None and not list(model.buffers()) and len(model) == 2
    assert "forward" not in vars(model)


def test_deep_models_are_reached_whole() -> None:
    deep: nn.Module = nn.Linear(1, 1)
    for _ in range(30):
        deep = nn.Sequential(deep)
    (parameter,) = (p for p in deep.parameters() if p.dim() == 2)
    beginning = Beginning([lambda x: deep(x)])
    parameter.grad = torch.ones(1, 1)
    parameter.requires_grad_(False)
    beginning.restore()
    assert parameter.grad is None and parameter.requires_grad


def test_cycles_end() -> None:
    ring: list[Any] = []
    ring.append(ring)
    beginning = Beginning([ring])
    ring.append(1)
    beginning.restore()
    assert len(ring) == 1


def test_optimizers_are_found_and_put_back() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    beginning = Beginning([lambda: optimizer.step()])
    assert beginning.optimizers == [optimizer]
    model(torch.ones(1, 2)).sum().backward()
    optimizer.param_groups[0]["lr"] = 5.0
    optimizer.step()
    beginning.restore()
    assert optimizer.param_groups[0]["lr"] == 0.1 and not optimizer.state


def test_gradients_that_are_there_are_put_back_with_their_dtype() -> None:
    """A gradient of another dtype than its tensor cannot be hung there, and what followed it was not put back."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model(torch.ones(1, 2)).sum().backward()
    before = [(p.detach().clone(), p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
    beginning = Beginning([model])
    for tensor in {id(tensor): tensor for tensor in beginning.tensors()}.values():
        tensor.data = tensor.data.double()
    beginning.restore()
    for parameter, (value, gradient, slope) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.dtype is torch.float32
        assert parameter.grad is gradient
        assert torch.equal(gradient, slope)
