"""Parameters and buffers of models by name: the modules are walked once, and again when one of them has others."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.torch.state import Roots

_OF_ROOTS = ("named_parameters", "named_buffers", "_named_members")
_OF_ALL = ("named_modules",)


class Tree:
    """The modules below some roots, and what each of them holds.

    What is remembered is where in the modules' dictionaries a name's tensor lies, for as long as the same modules have the
    same names there for the same things; no tensor is held. Modules that name their parameters in a way of their own are
    asked every time.

    Args:
        roots: (prefix, module).
    """

    def __init__(self, roots: Roots) -> None:
        self.roots = list(roots)
        self._modules: list[weakref.ref[torch.nn.Module]] | None = None
        self._keys: list[str] = []
        self._held: list[int] = []
        self._names: tuple[str, ...] = ()
        self._at: list[int] = []

    def tensors(self) -> tuple[tuple[str, ...], list[torch.Tensor]]:
        """Names of parameters and buffers, each once, and the tensors; the same tuple while nothing changed."""
        keys, things = self._look() if self._modules is not None else ([], [])
        if not keys or keys != self._keys or list(map(id, things)) != self._held:
            return self._walk()
        return self._names, [things[i] for i in self._at]

    def _look(self) -> tuple[list[str], list[Any]]:
        """Names and things in all dictionaries; nothing if a module is gone."""
        modules = [known() for known in self._modules or ()]
        there = [module for module in modules if module is not None]
        if len(there) != len(modules):
            return [], []
        held = [of for module in there for of in (module._parameters, module._buffers, module._modules)]
        return [name for of in held for name in of], [thing for of in held for thing in of.values()]

    def _walk(self) -> tuple[tuple[str, ...], list[torch.Tensor]]:
        found: dict[int, tuple[str, torch.Tensor]] = {}
        for prefix, module in self.roots:
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                found.setdefault(id(tensor), (f"{prefix}.{name}" if prefix else name, tensor))
        names, tensors = tuple(name for name, _ in found.values()), [tensor for _, tensor in found.values()]
        self._modules = self._known_modules()
        if self._modules is not None:
            self._keys, things = self._look()
            self._held = list(map(id, things))
            first: dict[int, int] = {}
            for position, one in enumerate(self._held):
                first.setdefault(one, position)
            if found.keys() <= first.keys():
                self._names, self._at = names, [first[one] for one in found]
            else:
                self._modules = None
        return names, tensors

    def _known_modules(self) -> list[weakref.ref[torch.nn.Module]] | None:
        """Every module once; None: one of them says itself what it holds."""
        modules = list({id(module): module for _, root in self.roots for module in root.modules()}.values())
        if any(_own(root, _OF_ROOTS) for _, root in self.roots) or any(_own(module, _OF_ALL) for module in modules):
            return None
        return [weakref.ref(module) for module in modules]


def _own(module: torch.nn.Module, names: Sequence[str]) -> bool:
    """Whether a module has methods of its own by these names."""
    return any(getattr(type(module), n) is not getattr(torch.nn.Module, n) or n in vars(module) for n in names)


__all__ = ["Tree"]
