"""Which module is running: scopes from module calls, phases from autograd and optimizer hooks."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from whydiff.capturing.adapters.torch.surroundings import tracing, unseen
from whydiff.records import HoleKind, Phase

UNSEEN: dict[HoleKind, str] = {
    "tracing": "modules that ran while the program was traced",
    "fake": "modules that ran on tensors without numbers",
}
_KEPT = 1_000_000
"""Scopes of this many autograd nodes are remembered for their backward ops."""
_module_call: Callable[..., Any] = torch.nn.Module.__call__
_listeners: list[Scopes] = []
_current_node: Callable[[], Any] = torch._C._current_autograd_node
_sequence_number = torch._C._autograd._get_sequence_nr


class Scopes:
    """Follows the running module, phase and step on one thread.

    A module's name is its path below the root that was entered first; a module that is shared gets the path
    below the module that calls it. Further roots are prefixed with their class name.

    Args:
        roots: (prefix, module) known beforehand; the first one entered otherwise becomes ``""``.
        on_enter, on_exit: called with (scope, module, args, kwargs), and the output at the end; ``depth`` of
            `stack` is 1 for the outermost module.
        inner: they are called for the modules inside of the outermost one too.
        on_step: called when a root is entered that was entered in this step already, with the number of the
            step that begins. Different roots (an encoder, a decoder) share a step; a model of the same parameters
            that is entered after an optimizer's step begins the next one (a run that goes on from a checkpoint).
        on_root: called with (prefix, module) when a root is met for the first time.
        on_update: called with the optimizer when a step of it begins.
        on_updated: called when a step of an optimizer has ended.
        on_failure: called with the place and an exception that one of the others (or this class) raised: it goes no
            further.
        on_hole: called with a `whydiff.records.HoleKind` and a reason for modules that are not followed: on another
            thread, under a tracer.
    """

    def __init__(
        self,
        roots: Iterable[tuple[str, torch.nn.Module]] = (),
        *,
        on_enter: Callable[[str, torch.nn.Module, Any, Any], None] | None = None,
        on_exit: Callable[[str, torch.nn.Module, Any, Any, Any], None] | None = None,
        on_step: Callable[[int], None] | None = None,
        on_root: Callable[[str, torch.nn.Module], None] | None = None,
        on_update: Callable[[torch.optim.Optimizer], None] | None = None,
        on_updated: Callable[[], None] | None = None,
        on_failure: Callable[[str, Exception], None] | None = None,
        on_hole: Callable[[HoleKind, str], None] | None = None,
        inner: bool = True,
    ) -> None:
        self.inner = inner
        self.on_enter, self.on_exit, self.on_step, self.on_root = on_enter, on_exit, on_step, on_root
        self.on_update, self.on_updated, self.on_failure, self.on_hole = on_update, on_updated, on_failure, on_hole
        self.stack: list[tuple[torch.nn.Module, str]] = []
        self.scope = ""
        self.step = 0
        self._entered: dict[int, torch.nn.Module] = {}
        self._updated = False
        self._updating: list[torch.optim.Optimizer] = []
        self._thread = threading.get_ident()
        self._names: dict[int, list[str]] = {}
        self._prefixes: dict[str, int] = {}
        self._roots: list[torch.nn.Module] = []
        self._forward_scope: dict[int, str] = {}
        self._last_sequence = _sequence_number()
        self._handles: list[Any] = []
        for prefix, module in roots:
            self._add_root(prefix, module)

    def _add_root(self, prefix: str, module: torch.nn.Module) -> None:
        self._roots.append(module)
        for path, child in modules_of(module):
            name = ".".join(part for part in (prefix, path) if part)
            self._names.setdefault(id(child), []).append(name)
        if self.on_root is not None:
            self.on_root(prefix, module)

    def __enter__(self) -> Scopes:
        global _module_call
        if not _listeners:
            _module_call = torch.nn.Module.__call__
        _listeners.append(self)
        follow()
        self._handles = [
            register_optimizer_step_pre_hook(self._begin_update),
            register_optimizer_step_post_hook(self._end_update),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Stop following; the original `torch.nn.Module.__call__` comes back with the last listener."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self in _listeners:
            _listeners.remove(self)
        if not _listeners:
            stand_aside()

    def silence(self) -> None:
        """Tell nobody any more, so that who listened is freed with its last reference."""
        self.on_enter = self.on_exit = self.on_step = self.on_root = self.on_update = self.on_updated = None
        self.on_failure = self.on_hole = None

    def phase_and_scope(self) -> tuple[Phase, str]:
        """Phase and scope of the op that runs now.

        A backward op belongs to the scope whose forward op made its autograd node: within dispatch the
        node made for the running op has the sequence number before the next one.
        """
        node = _current_node()
        if node is not None and not self.stack:
            return "backward", self._forward_scope.get(node._sequence_nr(), "")
        if self._updating and node is None and not self.stack:
            return "update", type(self._updating[-1]).__name__
        number = _sequence_number()
        if number != self._last_sequence:
            self._note_nodes(number)
        return "forward" if node is None else "backward", self.scope  # a checkpoint computes its forward again

    def _note_nodes(self, number: int) -> None:
        """Autograd nodes made since the last op belong to the module that runs now."""
        for made in range(max(self._last_sequence, number - 64), number):
            self._forward_scope[made] = self.scope
        self._last_sequence = number
        if len(self._forward_scope) > 2 * _KEPT:
            self._forward_scope = {n: scope for n, scope in self._forward_scope.items() if n > number - _KEPT}

    def _name(self, module: torch.nn.Module) -> str:
        names = self._names.get(id(module))
        if not self.stack:
            if names is None:
                self._add_root(self._prefix(module) if self._roots else "", module)
                names = self._names[id(module)]
            return names[0]
        if names is None:
            return f"{self.scope}.{type(module).__name__}" if self.scope else type(module).__name__
        if len(names) == 1 or not self.scope:
            return names[0]
        return next((name for name in names if name.startswith(self.scope + ".")), names[0])

    def _prefix(self, module: torch.nn.Module) -> str:
        name = type(module).__name__
        number = self._prefixes.get(name, 0)
        self._prefixes[name] = number + 1
        return f"{name}#{number}" if number else name

    def _guarded(self, where: str, work: Callable[[], None]) -> None:
        """Tell somebody; what that raises is no matter of the program's."""
        try:
            with unseen():
                work()
        except Exception as error:
            if self.on_failure is None:
                raise
            self.on_failure(where, error)

    def _enter(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        outermost = not self.stack
        name = self._name(module)
        if outermost and _current_node() is None:
            if id(module) in self._entered or self._takes_over(module):
                self._entered.clear()
                self._updated = False
                self.step += 1
                if self.on_step is not None:
                    self.on_step(self.step)
            self._entered[id(module)] = module
        self._push(module, name)
        if self.on_enter is not None and (outermost or self.inner):
            self.on_enter(name, module, args, kwargs)

    def _push(self, module: torch.nn.Module, name: str) -> None:
        self.stack.append((module, name))
        self.scope = name

    def entered(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        """A module begins. One of the many whose beginning nobody is told of is named, and nothing of torch is called."""
        if self.stack and not self.inner:
            try:
                return self._push(module, self._name(module))
            except Exception as error:
                if self.on_failure is None:
                    raise
                self.on_failure("", error)
                return None
        return self._guarded("", functools.partial(self._enter, module, args, kwargs))

    def left(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A module has given its output."""
        if self.inner or len(self.stack) == 1:
            self._guarded("", functools.partial(self._exit, module, args, kwargs, output))

    def _takes_over(self, module: torch.nn.Module) -> bool:
        """Whether a model of the same parameters was entered and updated in this step: a run goes on with a new copy."""
        if not self._updated:
            return False
        mine = [(name, p.shape) for name, p in module.named_parameters()]
        others = ([(name, p.shape) for name, p in other.named_parameters()] for other in self._entered.values())
        return bool(mine) and mine in others

    def _exit(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.on_exit is not None and self.stack and self.stack[-1][0] is module:
            self.on_exit(self.scope, module, args, kwargs, output)

    def _leave(self, depth: int) -> None:
        del self.stack[depth:]
        self.scope = self.stack[-1][1] if self.stack else ""

    def _begin_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        if optimizer in self._updating:  # its last step raised, and nobody was told
            del self._updating[self._updating.index(optimizer) :]
        self._updating.append(optimizer)
        self._updated = True
        on_update = self.on_update
        if on_update is not None:
            self._guarded("optimizer", lambda: on_update(optimizer))

    def _end_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if threading.get_ident() == self._thread and optimizer in self._updating:
            del self._updating[self._updating.index(optimizer) :]
            if self.on_updated is not None and not self._updating:
                self._guarded("optimizer", self.on_updated)


def follow() -> None:
    """Let modules tell who listens."""
    if _listeners:
        torch.nn.Module.__call__ = _call_and_tell  # type: ignore[method-assign]


def stand_aside() -> None:
    """Let modules be what they are alone, until `follow`."""
    if torch.nn.Module.__call__ is _call_and_tell:
        torch.nn.Module.__call__ = _module_call  # type: ignore[method-assign]


def modules_of(root: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """(path, module) of a tree, shared ones once per path; a child that holds its parent ends there."""
    waiting: list[tuple[str, torch.nn.Module, frozenset[int]]] = [("", root, frozenset())]
    while waiting:
        path, module, above = waiting.pop()
        yield path, module
        if not module._modules:
            continue
        above = above | {id(module)}
        children = [
            (f"{path}.{name}" if path else name, child, above)
            for name, child in module._modules.items()
            if child is not None and id(child) not in above
        ]
        waiting.extend(reversed(children))


def _listening() -> list[Scopes]:
    """Who follows this thread; on a device, a checkpoint's forward runs on autograd's own thread."""
    thread = threading.get_ident()
    here = [scopes for scopes in _listeners if scopes._thread == thread]
    if len(here) == len(_listeners):
        return here
    if _current_node() is not None and all(known.ident != thread for known in threading.enumerate()):
        return list(_listeners)
    for scopes in _listeners:
        if scopes._thread != thread and scopes.on_hole is not None and not _elsewhere.depth:
            scopes.on_hole("thread", "modules that ran on another thread than the capture's")
    return here


class _Elsewhere(threading.local):
    depth = 0


_elsewhere = _Elsewhere()


def _call_and_tell(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """`torch.nn.Module.__call__` while anyone listens: hooks see no keyword arguments, this does."""
    listening = _listening()
    kind = tracing() if listening else None
    if kind is not None:
        for scopes in listening:
            if scopes.on_hole is not None and not _elsewhere.depth:
                scopes.on_hole(kind, UNSEEN[kind])
    if not listening or kind is not None:
        _elsewhere.depth += 1
        try:
            return _module_call(module, *args, **kwargs)
        finally:
            _elsewhere.depth -= 1
    depths = [len(scopes.stack) for scopes in listening]
    try:
        for scopes in listening:
            scopes.entered(module, args, kwargs)
        output = _module_call(module, *args, **kwargs)
        for scopes in listening:
            scopes.left(module, args, kwargs, output)
        return output
    finally:
        for scopes, depth in zip(listening, depths, strict=True):
            scopes._leave(depth)
