"""State of models: what is found, under which name and role."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from whydiff.capturing.adapters.torch.state import config_of, discover
from whydiff.records import Leaf, Trace

Captured = Callable[..., Trace]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight = self.inner.weight  # tied
        self.register_buffer("table", torch.arange(3.0))
        self.register_buffer("scratch", torch.ones(3), persistent=False)
        self.scale = torch.tensor(2.0)
        self.pieces = [torch.ones(3), 5, torch.zeros(3)]
        self.named: dict[Any, Any] = {"bias": torch.ones(3), 7: torch.ones(1), "size": 3}
        self.eps, self.p, self.kind = 1e-6, 0.25, "fast"
        self.limit, self.sizes, self.dtype = float("inf"), (1, 2), torch.float16
        self.function = nn.functional.relu
        self.norm = nn.LayerNorm(3, eps=1e-3)
        self._private = 4
        self.unused: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.norm(self.inner(x))) * self.table * self.scratch * self.scale
        return x + self.pieces[0] + self.named["bias"]  # type: ignore[no-any-return, operator]


def leaves(trace: Trace) -> dict[str, Leaf]:
    return {leaf.name: leaf for leaf in trace.leaves}


def test_roles_and_names(captured: Captured) -> None:
    found = leaves(captured(Model(), torch.ones(2, 3)))
    assert {name: leaf.role for name, leaf in found.items()} == {
        "inner.weight": "parameter",
        "inner.bias": "parameter",
        "head.weight": "parameter",
        "norm.weight": "parameter",
        "norm.bias": "parameter",
        "table": "buffer",
        "scratch": "non_persistent_buffer",
        "scale": "attribute",
        "pieces[0]": "attribute",
        "pieces[2]": "attribute",
        "named['bias']": "attribute",
        "named[7]": "attribute",
        "x": "input",
    }
    assert all(leaf.fingerprint is not None for leaf in found.values())


def test_ties_are_one_storage(captured: Captured) -> None:
    trace = captured(Model(), torch.ones(2, 3))
    assert trace.ties == (("inner.weight", "head.weight"),)
    found = leaves(trace)
    assert found["inner.weight"].storage == found["head.weight"].storage
    separate = Model()
    separate.head.weight = nn.Parameter(separate.inner.weight.detach().clone())
    assert captured(separate, torch.ones(2, 3)).ties == ()


def test_looks_at_one_storage_that_show_different_elements_are_no_tie(captured: Captured) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(8.0)
            self.low, self.high = whole[:4], whole[4:]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.low + self.high

    trace = captured(Halves(), torch.ones(4))
    assert trace.ties == ()
    assert leaves(trace)["low"].storage == leaves(trace)["high"].storage


def test_scalars(captured: Captured) -> None:
    scalars = captured(Model().eval(), torch.ones(2, 3)).scalars
    expected = {
        "eps": 1e-6,
        "p": 0.25,
        "kind": "fast",
        "limit": "inf",
        "sizes": [1, 2],
        "dtype": "torch.float16",
        "function": "<function relu>",
        "training": False,
        "__class__": "Model",
        "norm.eps": 1e-3,
        "inner.in_features": 3,
        "norm.normalized_shape": [3],
        "inner.training": False,
    }
    assert {name: scalars.get(name) for name in expected} == expected
    assert "_private" not in scalars and "unused" not in scalars


def test_config_is_flat(captured: Captured) -> None:
    class Config:
        def to_dict(self) -> dict[str, Any]:
            return {"hidden_size": 3, "rope": {"type": "yarn", "factor": 2.0}, "layers": ["a", 1, None], "x": None}

    model = Model()
    model.config = Config()  # type: ignore[assignment]
    expected = {"hidden_size": 3, "rope.type": "yarn", "rope.factor": 2.0, "layers": ["a", 1, "None"], "x": None}
    assert config_of(model) == expected == captured(model, torch.ones(1, 3)).config
    assert config_of(nn.Linear(1, 1)) == {}


def test_state_that_no_op_touches_is_listed_all_the_same(captured: Captured) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("idle", torch.ones(5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    trace = captured(Idle(), torch.ones(2))
    idle = leaves(trace)["idle"]
    assert idle.fingerprint is not None
    assert all(event.storage != idle.storage for call in trace.calls for event in call.reads)


def test_state_as_it_was_before_the_run(captured: Captured) -> None:
    model = nn.BatchNorm1d(3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace = captured(model, torch.randn(4, 3))
    again = captured(model, torch.randn(4, 3))
    for name in before:
        assert leaves(trace)[name].fingerprint == leaves(again)[name].fingerprint
        payload = trace.payload(f"leaf/{name}")
        assert payload is not None and (payload.bits == before[name].numpy()).all()


def test_gradients_are_leaves_only_where_they_are_read(captured: Captured) -> None:
    model = nn.Linear(3, 3)
    model(torch.ones(1, 3)).sum().backward()
    assert not [name for name in leaves(captured(model, torch.ones(1, 3))) if name.endswith(".grad")]

    def more(x: torch.Tensor) -> Any:
        model(x).sum().backward()
        return model.weight.grad

    assert {"weight.grad", "bias.grad"} <= set(leaves(captured(more, torch.ones(1, 3))))


GLOBAL = nn.Linear(2, 2)


def uses_a_global(x: torch.Tensor) -> torch.Tensor:
    return GLOBAL(x)  # type: ignore[no-any-return]


def calls_another(x: torch.Tensor) -> torch.Tensor:
    return uses_a_global(x)


def test_what_a_callable_reaches() -> None:
    first, second, offset = nn.Linear(2, 2), nn.Linear(2, 2), torch.ones(2)

    class Service:
        def __init__(self) -> None:
            self.model = first

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x)  # type: ignore[no-any-return]

        def method(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x)  # type: ignore[no-any-return]

    def roots(target: Any) -> list[tuple[str, nn.Module]]:
        return discover(target)[0]

    assert roots(first) == [("", first)]
    assert roots(lambda x: second(first(x))) == [("first", first), ("second", second)]
    assert roots(functools.partial(lambda m, x: m(x), first)) == [("", first)]
    assert roots(Service()) == roots(Service().method) == [("", first)]
    assert roots(uses_a_global) == roots(calls_another) == [("", GLOBAL)]
    assert roots(nn.Sequential(first, second)) != [("", first)]
    found, tensors = discover(lambda x: first(x) + offset + first.weight)
    assert found == [("", first)] and [name for name, _ in tensors] == ["offset"]


def test_an_optimizer_is_no_bag_of_tensors() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    roots, tensors = discover(lambda x: (model(x), optimizer.step()))
    assert roots == [("", model)] and tensors == []
