"""Where the steps of a training program end, without touching the program."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.parameter import UninitializedParameter
from torch.optim.optimizer import (
    _global_optimizer_pre_hooks,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from whydiff.capturing.adapters.torch.optimizers import parameters_of
from whydiff.capturing.adapters.torch.state import Roots
from whydiff.capturing.adapters.torch.training.tree import Tree
from whydiff.garbage import frozen, set_aside

_existing: list[list[weakref.ref[torch.nn.Module]]] = []
"""The modules that existed as `settled` began, for whatever thread trains: none, or one list of them."""


class Following:
    """Counts the steps of what runs in its block; subclasses say what to do at each place.

    A step ends with an optimizer's step. Where no optimizer of `torch.optim` ever steps, it ends with the first change
    of a parameter that follows a ``backward()``: an update by hand, seen when the program next enters its model or
    calls ``backward()``.
    """

    def __init__(self) -> None:
        self.number = 0
        self.roots: Roots = []
        self._tree: Tree | None = None
        self._by_optimizer = False
        self._ready = False
        self._versions = 0
        self._backward: Callable[..., Any] = torch.autograd.backward
        self._handles: list[Any] = []

    def __enter__(self) -> Following:
        self._backward = torch.autograd.backward
        torch.autograd.backward = self._called_backward
        self._handles = [
            register_optimizer_step_pre_hook(self._before_update),
            register_optimizer_step_post_hook(self._after_update),
        ]
        return self

    def __exit__(self, *exception: Any) -> None:
        torch.autograd.backward = self._backward
        for handle in self._handles:
            handle.remove()

    def aside(self) -> AbstractContextManager[Any]:
        """Around what is done beside the program: a subclass may keep from the program what fails there."""
        return nullcontext()

    def gradients_ready(self, optimizer: torch.optim.Optimizer | None) -> None:
        """The update is about to be made; without an optimizer perhaps after a further ``backward()``."""

    def ended(self) -> None:
        """Step `number` has ended."""

    def differentiated(self, losses: tuple[torch.Tensor, ...]) -> None:
        """``backward()`` was called on these tensors."""

    def parameters(self) -> list[tuple[str, torch.Tensor]]:
        """Parameters and buffers of the models that are trained, by name."""
        return list(zip(*self.named(), strict=True))

    def named(self) -> tuple[tuple[str, ...], list[torch.Tensor]]:
        """The same: names, and tensors."""
        if self._tree is None or self._tree.roots != self.roots:
            self._tree = Tree(self.roots)
        return self._tree.tensors()

    def updated_by_hand(self) -> None:
        """End the step if parameters were changed since the last ``backward()`` and no optimizer does it."""
        if self._ready and not self._by_optimizer and self._changed():
            self._end()

    def _end(self) -> None:
        self._ready = False
        with self.aside():
            self.ended()
        self.number += 1

    def _called_backward(self, tensors: Any, *args: Any, **kwargs: Any) -> None:
        tensors = tuple(tensors) if isinstance(tensors, Iterator) else tensors
        given = (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors)
        losses = tuple(loss for loss in given if isinstance(loss, torch.Tensor))  # others are edges of the graph
        with self.aside():
            self.updated_by_hand()
            if not self.roots:
                mine = _leaves_below(losses)
                self.roots = models(lambda p: id(p) in mine)
        self._backward(tensors, *args, **kwargs)
        with self.aside():
            self.differentiated(losses)
            if not self._by_optimizer:
                self._ready = True
                self._note()
                self.gradients_ready(None)

    def _before_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """What the step is given instead, if that is another closure: its gradients are ready once that has run."""
        if torch.compiler.is_compiling():  # part of a compiled step: seen as an update by hand
            return None
        self._by_optimizer = True
        with self.aside():
            mine = {id(p) for p in parameters_of(optimizer)}
            if not any(id(p) in mine for _, root in self.roots for p in root.parameters()):
                # an optimizer's parameters, or a copy that goes on with them
                fresh = models(lambda p: id(p) in mine)
                taken = [module for _, module in fresh]
                self.roots = fresh + [(f"{p or type(m).__name__}", m) for p, m in self._others(taken)]
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if callable(closure):
            watched = self._watched(closure, optimizer, args, kwargs)
            return (args, {**kwargs, "closure": watched}) if len(args) < 2 else ((args[0], watched, *args[2:]), kwargs)
        with self.aside():
            self.gradients_ready(optimizer)
        return None

    def _watched(
        self, closure: Callable[..., Any], optimizer: torch.optim.Optimizer, args: Any, kwargs: Any
    ) -> Callable[..., Any]:
        """A closure that makes a step's gradients: forward and backward run inside of the step.

        Whoever comes to look at optimizers meanwhile is told of the step too: its first look is before the update.
        """
        waiting = True

        def computed(*given: Any, **named: Any) -> Any:
            nonlocal waiting
            known = set(_global_optimizer_pre_hooks)
            found = closure(*given, **named)
            if waiting:  # an optimizer may ask more than once
                waiting = False
                for key in [key for key in _global_optimizer_pre_hooks if key not in known]:
                    _global_optimizer_pre_hooks[key](optimizer, args, kwargs)
                with self.aside():
                    self.gradients_ready(optimizer)
            return found

        return computed

    def _others(self, taken: list[torch.nn.Module]) -> Roots:
        """Models that are trained beside the fresh ones; one of the same parameters was replaced by its copy."""
        forms = [[(n, p.shape) for n, p in module.named_parameters()] for module in taken]
        return [(p, m) for p, m in self.roots if [(n, q.shape) for n, q in m.named_parameters()] not in forms]

    def _after_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_compiling():
            self._end()

    def _note(self) -> None:
        """Remember the parameters as they are before an update."""
        self._versions = self._version()

    def _changed(self) -> bool:
        """Whether they are others now."""
        return self._version() != self._versions

    def _version(self) -> int:
        return sum(p._version for _, root in self.roots for p in root.parameters())


def _leaves_below(losses: Iterable[torch.Tensor]) -> set[int]:
    """Identities of the tensors whose gradients a ``backward()`` of these would make."""
    waiting: list[Any] = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    seen, found = set(waiting), set()
    while waiting:
        node = waiting.pop()
        if type(node).__name__ == "AccumulateGrad":
            found.add(id(node.variable))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found


@contextmanager
def settled() -> Iterator[None]:
    """What exists now is looked through once, however often `models` is asked in this block; it may be in another.

    The garbage collector does not look through it either: what is garbage before is found before.
    """
    if _existing or frozen():  # whoever froze something is not to find it thawed
        yield
        return
    gc.collect()
    _existing.append([weakref.ref(module) for module in modules()])
    try:
        with set_aside():
            yield
    finally:
        _existing.clear()


def modules() -> list[torch.nn.Module]:
    """Every module that the garbage collector knows of, but for those that were never initialised as one.

    To look for them takes a tenth of a second for a million objects.
    """
    before = [module for refs in _existing for ref in refs if (module := ref()) is not None]
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Module)]
    known = {id(module): module for module in (*found, *before)}
    return [module for module in known.values() if "_modules" in vars(module)]


def models(trained: Callable[[torch.Tensor], bool]) -> Roots:
    """(prefix, module) of the outermost modules that hold a parameter of the given kind, the largest first."""
    known = modules()
    inner = {id(child) for module in known for child in module.modules() if child is not module}
    outer = [module for module in known if id(module) not in inner and any(map(trained, module.parameters()))]
    outer.sort(key=lambda module: -_elements(module))
    names: dict[str, int] = {}
    found: Roots = []
    for module in outer:
        if found and _within(module, (m for _, m in found)):
            continue
        name = type(module).__name__ if found else ""
        count = names[name] = names.get(name, -1) + 1
        found.append((f"{name}#{count}" if count else name, module))
    return found


def _elements(module: torch.nn.Module) -> int:
    """Of all parameters that have sizes by now."""
    return sum(p.numel() for p in module.parameters() if not isinstance(p, UninitializedParameter))


def _within(module: torch.nn.Module, others: Iterable[torch.nn.Module]) -> bool:
    """Whether all parameters of a module are another's too (a wrapper, a loss that holds the model)."""
    mine = {id(p) for p in module.parameters()}
    return any(mine <= {id(p) for p in other.parameters()} for other in others)
