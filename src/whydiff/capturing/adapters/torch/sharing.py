"""One trace of a program by dynamo for many ways of compiling: they differ only in what is done to its graphs.

A graph is kept as it was traced, and each way compiles a copy of it when the program first comes to it. Everything
before and around it (guards, breaks, effects of Python) is dynamo's own. Where a second way could come out otherwise
than after a fresh trace nothing is shared: sizes and numbers that stay open, graphs inside graphs, inputs that share
memory, and functions of which there are several versions, among which guards would have to choose.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import _guards, fx
from torch.utils.weak import WeakTensorKeyDictionary

from whydiff.capturing.adapters.contract import Way
from whydiff.capturing.adapters.torch.compiled import Copies
from whydiff.capturing.adapters.torch.process import random_states, set_random_states

_Compiler = Callable[[Any, Any], Any]


class Block(Protocol):
    """Who says how graphs are compiled now.

    Attributes:
        way: how.
        counts: whether it counts what is done while they are compiled, which is then done every time.
    """

    way: Way
    counts: bool

    def compiler(self, backend: Any) -> _Compiler:
        """What compiles a graph in the place of a backend."""


class Traces:
    """What one program compiles, traced apart from all other compiled code.

    Attributes:
        region: where its versions are kept, where PyTorch keeps regions apart.
        copies: what keeps them apart elsewhere.
        shared: whether a further way may be given the graphs of the first.
        block: how graphs are compiled now.
    """

    _regions = itertools.count(1 << 20)

    def __init__(self) -> None:
        self.region, self.copies = next(self._regions), Copies()
        self.shared = True
        self.block: Block | None = None
        self._own: dict[int, tuple[Any, Any]] = {}
        self._versions: dict[Any, Any] = {}

    def owns(self, callback: Any) -> bool:
        """Whether it was made by `callback`."""
        return any(callback is own for _, own in self._own.values())

    def callback(self, backend: Any, wrapped: Callable[[_Compiler], Any]) -> Any:
        """What dynamo is to call in the place of a backend, the same every time."""
        if id(backend) not in self._own:
            self._own[id(backend)] = backend, wrapped(lambda graph, inputs: self._compiled(graph, inputs, backend))
        return self._own[id(backend)][1]

    def _compiled(self, graph: fx.GraphModule, inputs: Any, backend: Any) -> Any:
        assert self.block is not None
        number = _guards.CompileContext.current_compile_id()
        if number is None or self._versions.setdefault(number.frame_id, number.frame_compile_id) != (
            number.frame_compile_id
        ):
            self.shared = False
        self.shared = self.shared and _can_be_shared(graph, inputs)
        if not self.shared:
            return self.block.compiler(backend)(graph, inputs)
        kept = _Graph(self, graph, inputs, backend)
        kept.once = self.block, self.block.compiler(backend)(graph, inputs)
        return kept.run

    @contextmanager
    def used_by(self, block: Block) -> Iterator[None]:
        """A block in which graphs are compiled so."""
        before, self.block = self.block, block
        with self.copies.in_force():
            try:
                yield
            finally:
                self.block = before


class _Graph:
    """A graph as it was traced, and its compiled forms by the way in which they were compiled.

    Attributes:
        once: the last block in which it was compiled, and what came of it.
    """

    def __init__(self, traces: Traces, graph: fx.GraphModule, inputs: Any, backend: Any) -> None:
        self.once: tuple[Block | None, Any] = (None, None)
        self._by_way: dict[Way, Any] = {}
        self._traces, self._graph, self._backend = traces, _copied(graph), backend
        context = _guards.TracingContext.get()
        self._number, self._context = _guards.CompileContext.current_compile_id(), copy.copy(context)
        self._sizes = [context.tensor_to_context.get(value) for value in inputs]

    def run(self, *args: Any) -> Any:
        """What dynamo calls in the graph's place."""
        block = self._traces.block
        if block is None:  # nobody asks for a way of compiling it: its ops
            return self._graph.forward(*args)
        if block is not self.once[0]:
            self.once = block, self._by_way.get(block.way) or self._compiled(block, args)
        if not block.counts:
            self._by_way[block.way] = self.once[1]
        return self.once[1](*args)

    def _compiled(self, block: Block, args: tuple[Any, ...]) -> Any:
        context = copy.copy(self._context)
        assert self._context.fake_mode is not None
        from torch._subclasses import FakeTensorMode

        context.fake_mode = FakeTensorMode(shape_env=self._context.fake_mode.shape_env)
        context.fw_metadata = context.output_strides = None
        context.tensor_to_context = WeakTensorKeyDictionary()
        for value, sizes in zip(args, self._sizes, strict=True):
            if sizes is not None:
                context.tensor_to_context[value] = sizes
        states = random_states()
        with ExitStack() as stack:
            stack.callback(set_random_states, states)
            stack.enter_context(_guards.compile_context(_guards.CompileContext(self._number)))
            stack.enter_context(_guards.tracing(context))
            return block.compiler(self._backend)(_copied(self._graph), list(args))


_now: list[Traces] = []


@contextmanager
def sharing(traces: Traces) -> Iterator[None]:
    """A block in which ways of compiling share the traces of one program that begins the same every time."""
    _now.append(traces)
    try:
        yield
    finally:
        _now.pop()


def traces_now() -> Traces:
    """Those of the program that runs now, where they may be shared; else new ones."""
    return _now[-1] if _now and _now[-1].shared else Traces()


def _can_be_shared(graph: fx.GraphModule, inputs: Any) -> bool:
    context = _guards.TracingContext.try_get()
    if context is None or context.fake_mode is None or not all(type(value) in _PLAIN for value in inputs):
        return False
    if context.fake_mode.shape_env is None or context.fake_mode.shape_env.var_to_range:  # a size or number stays open
        return False
    storages = {value.untyped_storage()._cdata for value in inputs if value.layout is torch.strided}
    return len(storages) == len(inputs) and not any(isinstance(inner, fx.GraphModule) for inner in graph.children())


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _copied(graph: fx.GraphModule) -> fx.GraphModule:
    """The same graph once more, over the same tensors, with what dynamo noted on it."""
    found = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    found.meta = dict(graph.meta)
    for name, value in vars(graph).items():
        vars(found).setdefault(name, value)
    for node, other in zip(graph.graph.nodes, found.graph.nodes, strict=True):
        for name, value in getattr(node, "__dict__", {}).items():
            other.__dict__.setdefault(name, value)
    return found
