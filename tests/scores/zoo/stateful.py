"""Models whose attributes are strange."""

from __future__ import annotations

from typing import Any

import torch
from tests.scores.zoo.kind import kind
from tests.scores.zoo.models import mlp
from torch import nn


@kind()
def lazy() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2))
    return model(torch.ones(3, 8)), [tuple(p.shape) for p in model.parameters()]


@kind(both=["unreadable"])
def config_that_raises() -> Any:
    class Config:
        def to_dict(self) -> Any:
            raise RuntimeError("no configuration today")

    model = mlp()
    model.config = Config()
    return model(torch.ones(1, 8))


@kind(both=["unreadable"])
def attribute_that_raises() -> Any:
    class Guarded(nn.Module):
        @property
        def config(self) -> Any:
            raise KeyError("hidden")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    return Guarded()(torch.ones(2))


@kind()
def attributes_in_a_circle() -> Any:
    model = mlp()
    ring: list[Any] = [torch.ones(2)]
    ring.append(ring)
    model.ring, model.table = ring, {"me": None}
    model.table["me"] = model.table
    return model(torch.ones(1, 8))


@kind(both=["unreadable"])
def attributes_that_are_deep() -> Any:
    model = mlp()
    deep: Any = torch.ones(1)
    for _ in range(20_000):
        deep = [deep]
    model.deep = deep
    model.config = {"deep": deep}
    try:
        return model(torch.ones(1, 8))
    finally:
        while isinstance(deep, list):
            (deep,) = deep  # by hand: to free it all at once is too deep as well


@kind()
def an_integer_of_5000_digits() -> Any:
    model = mlp()
    model.large, model.config = 10**5000, {"large": 10**5000}
    return model(torch.ones(1, 8))


@kind()
def text_that_is_no_unicode() -> Any:
    model = mlp()
    model.text, model.config = "\ud800", {"\ud800": float("nan"), "inf": float("inf"), 3: {4: "x"}}
    return model(torch.ones(1, 8))


@kind()
def child_that_holds_its_parent() -> Any:
    class Child(nn.Module):
        def __init__(self, parent: nn.Module) -> None:
            super().__init__()
            self.parent = parent

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.parent.linear(x)

    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.child = Child(self)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.child(x)

    torch.manual_seed(0)
    return Parent()(torch.ones(1, 3))


@kind()
def deeply_nested_modules() -> Any:
    """As deep as Python allows alone: the capture must not be the straw."""

    class Wraps(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + 1

    model: nn.Module = nn.Identity()
    for _ in range(240):
        model = Wraps(model)
    return model(torch.zeros(1))


@kind()
def equality_that_raises() -> Any:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise TypeError("not comparable")

        __hash__ = None  # type: ignore[assignment]

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = Odd()

        def forward(self, x: torch.Tensor, odd: Any = None) -> torch.Tensor:
            return x * 2

    return Keeps()(torch.ones(2), odd=Odd())


@kind()
def slots_and_weak_references() -> Any:
    import weakref

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.me = weakref.ref(self)
            self.table = weakref.WeakKeyDictionary({self.linear: torch.ones(1)})

        def forward(self, x: torch.Tensor) -> Any:
            me = self.me()
            assert me is not None
            return {"y": me.linear(x), 1: (x for x in ())}

    torch.manual_seed(0)
    return Keeps()(torch.ones(1, 2))["y"]


@kind()
def forward_that_is_replaced() -> Any:
    model = mlp()
    own = model[0].forward
    model[0].forward = lambda x: own(x) * 2  # type: ignore[method-assign]
    return model(torch.ones(1, 8))
