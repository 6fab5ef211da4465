"""Names of parameters and buffers: what is remembered is given up as soon as a module has others."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from whydiff.capturing.adapters.torch.training.tree import Tree


def model() -> nn.Module:
    inner = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    outer = nn.Sequential(inner, nn.Linear(2, 2))
    outer[1].register_parameter("tied", inner[2].bias)
    return outer


def walked(roots: list[tuple[str, nn.Module]]) -> list[tuple[str, int]]:
    """As PyTorch says it."""
    found: dict[int, str] = {}
    for prefix, root in roots:
        for name, tensor in (*root.named_parameters(), *root.named_buffers()):
            found.setdefault(id(tensor), f"{prefix}.{name}" if prefix else name)
    return [(name, one) for one, name in found.items()]


def told(tree: Tree) -> list[tuple[str, int]]:
    names, tensors = tree.tensors()
    return list(zip(names, map(id, tensors), strict=True))


def replace(root: Any) -> None:
    root[1].weight = nn.Parameter(torch.zeros(2, 2))


def give(root: Any) -> None:
    root[1].weight.data = torch.zeros(2, 2)


def tie(root: Any) -> None:
    root[1].weight = root[0][2].weight


def untie(root: Any) -> None:
    root[1].tied = nn.Parameter(torch.zeros(2))


def drop(root: Any) -> None:
    root[0][0].register_parameter("bias", None)


def delete(root: Any) -> None:
    del root[0][1]


def add(root: Any) -> None:
    root[0].add_module("more", nn.Linear(2, 2))


def rename(root: Any) -> None:
    root[0]._modules["other"] = root[0]._modules.pop("2")


def turn(root: Any) -> None:
    root[0]._modules["0"] = root[0]._modules.pop("0")  # the last one now


def buffer(root: Any) -> None:
    root[0][1].running_mean = torch.ones(3)


def anew(root: Any) -> None:
    vars(root[1])["_parameters"] = {"weight": nn.Parameter(torch.ones(2, 2))}


def wrap(root: Any) -> None:
    root[0] = nn.Sequential(root[0])


def parametrise(root: Any) -> None:
    nn.utils.parametrizations.weight_norm(root[1])


CHANGES = [replace, give, tie, untie, drop, delete, add, rename, turn, buffer, anew, wrap, parametrise]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_anywhere_below_is_seen_at_once(change: Callable[[Any], None]) -> None:
    roots = [("", model()), ("other", nn.Linear(2, 2))]
    tree = Tree(roots)
    names, _ = tree.tensors()
    assert told(tree) == walked(roots)
    assert tree.tensors()[0] is names, "nothing is walked again"
    change(roots[0][1])
    for _ in range(2):
        assert told(tree) == walked(roots)


def test_a_tensor_that_took_the_place_of_one_in_memory_is_the_one_that_is_given() -> None:
    roots = [("", model())]
    tree, root = Tree(roots), roots[0][1]
    tree.tensors()
    for number in range(50):  # some of them lie where one before lay
        root[1].weight = None
        root[1].weight = nn.Parameter(torch.full((2, 2), float(number)))
        names, tensors = tree.tensors()
        assert tensors[names.index("1.weight")] is root[1].weight


class Renaming(nn.Linear):
    """Names its parameters as it likes, as sharded modules do while they are gathered."""

    word = "a"

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return ((f"{self.word}.{name}", tensor) for name, tensor in super().named_parameters(*args, **kwargs))


class Hiding(nn.Linear):
    """Names its modules as it likes."""

    hidden = False

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        return iter(()) if self.hidden else super().named_modules(*args, **kwargs)


def test_modules_that_name_things_themselves_are_asked_every_time() -> None:
    renaming = Renaming(2, 2)
    tree = Tree([("", renaming)])
    assert tree.tensors()[0] == ("a.weight", "a.bias")
    renaming.word = "b"
    assert tree.tensors()[0] == ("b.weight", "b.bias")
    hiding = Hiding(2, 2)
    roots: list[tuple[str, nn.Module]] = [("", nn.Sequential(nn.Linear(2, 2), hiding))]
    tree = Tree(roots)
    assert told(tree) == walked(roots) and len(told(tree)) == 4
    hiding.hidden = True
    assert told(tree) == walked(roots) and len(told(tree)) == 2


def test_a_module_that_was_taken_out_is_not_held() -> None:
    roots: list[tuple[str, nn.Module]] = [("", model())]
    tree = Tree(roots)
    tree.tensors()
    gone = weakref.ref(roots[0][1][1])  # type: ignore[index]
    weight = weakref.ref(roots[0][1][1].weight)  # type: ignore[index]
    del roots[0][1][1]  # type: ignore[attr-defined]
    gc.collect()
    assert gone() is None and weight() is None
    assert told(tree) == walked(roots)
