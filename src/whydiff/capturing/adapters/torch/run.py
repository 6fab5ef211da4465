"""A live PyTorch program that can be run again and again from the same beginning."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from whydiff.capturing.adapters import contract
from whydiff.capturing.adapters._live import called, checked
from whydiff.capturing.adapters._outputs import outputs_of
from whydiff.capturing.adapters.torch.beginning import Beginning, Contents
from whydiff.capturing.adapters.torch.climbing import EAGER, LAST, Climbing, rungs
from whydiff.capturing.adapters.torch.dtypes import default_dtype, dtype_of, not_comparable
from whydiff.capturing.adapters.torch.fast_path import blamed, is_taken
from whydiff.capturing.adapters.torch.graphs import Collecting, functional
from whydiff.capturing.adapters.torch.interventions import OTHER_ROWS, applied, supported
from whydiff.capturing.adapters.torch.loading import unwritten
from whydiff.capturing.adapters.torch.modes import Casting
from whydiff.capturing.adapters.torch.otherwise import regions_of_autocast
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.process import is_found_in, random_states, set_random_states
from whydiff.capturing.adapters.torch.range_recorder import RangeRecorder
from whydiff.capturing.adapters.torch.reading import READER
from whydiff.capturing.adapters.torch.rewrites import Rewriter
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.capturing.adapters.torch.session import Session
from whydiff.capturing.adapters.torch.sharing import Traces, sharing
from whydiff.capturing.adapters.torch.state import LiveLeaf, discover, inputs_of, state_of
from whydiff.capturing.process import Draws
from whydiff.capturing.sink import Payloads, Sink
from whydiff.errors import TargetError
from whydiff.numbers.ranges.audit import Audit
from whydiff.records import Intervention, ObserverCheck, Output, RecordedTrace, Site, Trace


class Run(contract.Run):
    """Runs ``target(*args, **kwargs)`` from the same state, inputs and random states every time.

    Args:
        target: a module or any callable.
        args, kwargs: its inputs; tensors are copied for every run, so that in-place changes stay inside.
    """

    framework = "torch"

    def __init__(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.target, self.args, self.kwargs = target, tuple(args), dict(kwargs)
        self.is_module = isinstance(target, torch.nn.Module)
        self.roots, self.tensors = discover(target)
        for _, module in discover([*self.args, *self.kwargs.values()])[0]:
            if not any(module is known for _, known in self.roots):
                self.roots.append(("" if not self.roots else "argument", module))
        self._random = random_states()
        self._leaves: list[LiveLeaf] = []
        self._optimizers: list[torch.optim.Optimizer] = []
        self._contents: Contents | None = None
        self._reached: list[torch.Tensor] = []
        self._anchor: tuple[Output, ...] | None = None
        self._observed: tuple[Output, ...] = ()
        self._draws = Draws()
        self._drew = False
        self._backends: list[Any] | None = None
        self._traces = Traces()
        self._regions: dict[str, bool] = {}

    def anchor(self) -> tuple[Output, ...]:
        """What the program gives back when nobody watches (H0), as it was the first time this was asked.

        Raises:
            TargetError: the program raised.
        """
        if self._anchor is None:
            self._anchor = self._given()
        return self._anchor

    def _given(self) -> tuple[Output, ...]:
        with self._beginning() as (args, kwargs):
            try:
                with self._draws:
                    return outputs_of(called(self.target, args, kwargs), READER)
            finally:
                for leaf in self._leaves:
                    leaf.restore()

    def capture(self, *, level: str = "op") -> RecordedTrace:
        """Run once instrumented; what the program gives back plainly is asked for before.

        Raises:
            TargetError: the program raised.
        """
        anchor = self.anchor()
        session = Session(self.roots, self.tensors, level=level, whole=True)
        self._instrumented(session)
        observer = ObserverCheck(
            deterministic=None, unchanged=None, outputs=len(self._observed), note="not checked yet"
        )
        return replace(session.trace(observer), outputs=anchor)

    def _instrumented(self, session: Session) -> None:
        with self._beginning() as (args, kwargs):
            try:
                with session:
                    session.expect(self._optimizers)
                    session.add_inputs(args, kwargs, self.target)
                    outputs = called(self.target, args, kwargs)
                    session.returned(outputs)
                self._observed = outputs_of(outputs, READER)
            finally:
                session.restore()
                self._drew = is_found_in(session.recorder.first_drawn, self._random)
                self._leaves = [leaf for leaf in session.leaves if leaf.written]

    def record(
        self, sink: Sink, *, level: str = "op", payloads: Payloads = "all", check: bool = True
    ) -> dict[str, Any]:
        """Run once instrumented into a sink, step by step, with outputs named as by `capture`; globs are over sites."""
        anchor = self.anchor() if check else ()
        session = Session(self.roots, self.tensors, level=level, payloads=payloads, sink=sink, whole=True)
        self._instrumented(session)
        manifest = session.manifest() | {"outputs": session.keep(anchor if check else self._observed)}
        return manifest | ({"observer": self.check()} if check else {})

    def plain(
        self, interventions: Iterable[Intervention] = (), donor: contract.Executor | None = None
    ) -> list[tuple[str, torch.Tensor]]:
        """Run without any instrument, under interventions.

        Raises:
            TargetError: the program raised.
            UsageError: an intervention cannot be carried out here.
        """
        with self._beginning() as (args, kwargs), sharing(self._traces):
            try:
                with applied(list(interventions), self.roots, self.tensors, args, kwargs, self.target, donor) as call:
                    return _copies(called(self.target, *call))
            finally:
                for leaf in self._leaves:
                    leaf.restore()

    def lifted(
        self, dtype: contract.Precision, interventions: Iterable[Intervention] = ()
    ) -> tuple[Output, ...] | None:
        """See `contract.Run.lifted`; what the program itself makes in a given dtype stays so, and may not fit."""
        try:
            with self._at(dtype) as (args, kwargs), ExitStack() as stack:
                given = list(interventions)
                if not given:
                    stack.enter_context(Climbing(contract.Way(LAST)))
                args, kwargs = stack.enter_context(
                    applied(given, self.roots, self.tensors, args, kwargs, self.target, None)
                )
                try:
                    return outputs_of(called(self.target, args, kwargs), READER)
                finally:
                    for leaf in self._leaves:
                        leaf.restore()
        except (TargetError, RuntimeError, TypeError):
            return None

    def casts_to(self) -> str:
        """See `contract.Run.casts_to`; what is compiled is carried out op by op for that."""
        casting = Casting()
        try:
            with self._at("float64") as (args, kwargs), Climbing(contract.Way(EAGER)), casting:
                try:
                    called(self.target, args, kwargs)
                finally:
                    for leaf in self._leaves:
                        leaf.restore()
        except (TargetError, RuntimeError, TypeError):
            return ""
        return casting.coarsest

    @contextmanager
    def _at(self, dtype: contract.Precision) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The beginning with the same values at another precision; to 16 bits all are rounded."""
        wide, narrow = dtype_of(dtype), dtype in ("bfloat16", "float16")
        with self._beginning() as (args, kwargs), default_dtype(wide):
            held = (*self._reached, *(t for _, t in tensors_in([args, kwargs])))
            for tensor in {id(t): t for t in held}.values():
                if tensor.is_floating_point() and (narrow or tensor.element_size() < wide.itemsize):
                    tensor.data = tensor.data.to(wide)
            yield args, kwargs

    def rungs(self) -> tuple[contract.Rung, ...]:
        """What compiles this program, step by step; asked for by an uncompiled run, once."""
        if self._backends is None:
            self.compiled_as(contract.Way(EAGER))
        return rungs(self._backends or [])

    def compiled_as(self, way: contract.Way) -> contract.Compiled:
        """See `contract.Run.compiled_as`."""
        with sharing(self._traces):
            climbing = Climbing(way)
        try:
            with self._beginning() as (args, kwargs), climbing, regions_of_autocast() as regions:
                try:
                    outputs = outputs_of(called(self.target, args, kwargs), READER)
                finally:
                    for leaf in self._leaves:
                        leaf.restore()
        except TargetError as error:
            return contract.Compiled(None, tuple(climbing.done), failed=error.actual)
        finally:
            self._backends = climbing.backends
            self._regions[way.rung] = self._regions.get(way.rung, False) or bool(regions)
        return contract.Compiled(outputs, tuple(climbing.done))

    def autocasts(self) -> bool:
        """See `contract.Run.autocasts`."""
        asked = {EAGER, *(rung.name for rung in self.rungs()[-1:])}
        return not asked <= self._regions.keys() or any(self._regions.values())

    def graphs(self) -> tuple[contract.Graph, ...]:
        """See `contract.Run.graphs`; what cannot be written without changes in place is left out."""
        collecting = Collecting()
        with self._beginning() as (args, kwargs), collecting:
            try:
                called(self.target, args, kwargs)
            finally:
                for leaf in self._leaves:
                    leaf.restore()
        found = [functional(graph, given, backend) for graph, given, backend in collecting.found]
        return tuple(graph for graph in found if graph is not None)

    def unwritten(self, names: Iterable[str]) -> frozenset[str]:
        """See `whydiff.capturing.adapters.torch.loading`."""
        return unwritten(self.roots, names)

    def check(self, trace: Trace | None = None) -> ObserverCheck:
        """H0 and H0′ (plain) against H1 (the capture made in between, whose outputs this run remembers)."""
        found = checked(self.anchor(), self._given(), self._observed)
        found = replace(found, drew=(*self._draws.found, *(("torch",) if self._drew else ())))
        if found.unchanged is False and trace is not None and is_taken(trace):
            return replace(found, why=blamed(self.anchor(), self._given, self._looked_at))
        return found

    def _looked_at(self) -> tuple[Output, ...]:
        """What the program gives when it is captured once more; nothing of that is kept."""
        with self._as_it_was():
            self._instrumented(Session(self.roots, self.tensors, level="op", whole=True))
            return self._observed

    def lines(self, sites: Collection[Site]) -> Mapping[Site, str]:
        """See `contract.Run.lines`; nothing of the tensors is read."""
        session = Session(self.roots, self.tensors, level="op", whole=True)
        with self._as_it_was():
            located = session.recorder.locate(sites)
            self._instrumented(session)
            return located.found

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """A block after which this run remembers of its recorded run what it did before."""
        kept = self._observed, self._drew, self._leaves
        try:
            yield
        finally:
            self._observed, self._drew, self._leaves = kept

    def audit(self, rewrites: Iterable[Intervention] = ()) -> tuple[Audit, list[tuple[str, torch.Tensor]]]:
        """Run once under a range recorder, with ops rewritten where asked; everything is put back afterwards.

        Returns:
            The audit, and the outputs by path.

        Raises:
            TargetError: the program raised.
            UsageError: an intervention is no rewrite.
        """
        wanted = list(rewrites)
        leaves = [leaf for prefix, root in self.roots for leaf in state_of(prefix, root)]
        leaves += [LiveLeaf(name, "attribute", tensor) for name, tensor in self.tensors]
        scopes = Scopes(self.roots)
        recorder = RangeRecorder(scopes, leaves)
        try:
            with self._beginning() as (args, kwargs), ExitStack() as stack:
                stack.enter_context(scopes)
                stack.enter_context(recorder)
                rewriter = Rewriter(scopes, wanted)
                if wanted:  # on top, so that the recorder sees what is carried out
                    stack.enter_context(rewriter)
                outputs = called(self.target, args, kwargs)
                stack.close()
                return replace(recorder.audit(), rewritten=rewriter.measured), _copies(outputs)
        finally:  # after `Contents`, which forgets what it finds unchanged
            for leaf in leaves:
                leaf.restore()

    def supports(self, intervention: Intervention) -> bool:
        """Whether `plain` can carry this intervention out."""
        given = any(path == intervention.target for path, _ in inputs_of(self.target, self.args, self.kwargs))
        if intervention.name == "restore-input" or (intervention.name == OTHER_ROWS and given):
            return given
        return supported(intervention, self.roots, self.tensors)

    @contextmanager
    def _beginning(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The same random states and fresh inputs; afterwards everything that is not content is put back."""
        beginning = Beginning([self.target, self.args, self.kwargs, *(root for _, root in self.roots)])
        self._optimizers = beginning.optimizers
        self._reached = beginning.tensors()
        if self._contents is None:
            self._contents = Contents(self._reached)
        set_random_states(self._random)
        torch.clear_autocast_cache()  # a region around the call would hand on the casts of the run before
        try:
            yield self._fresh()
        finally:
            beginning.restore()
            self._contents.put_back()

    def _fresh(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copies of the inputs, aliasing and layout included; modules and what cannot be copied stay shared."""
        memo: dict[int, Any] = {}
        for _, root in self.roots:
            memo[id(root)] = root
            for leaf in state_of("", root):
                memo[id(leaf.tensor)] = leaf.tensor
        for _, tensor in self.tensors:
            memo[id(tensor)] = tensor
        for _, tensor in tensors_in([self.args, self.kwargs]):
            if id(tensor) not in memo and not not_comparable(tensor) and not tensor.is_leaf:
                # a leaf as far as gradients go, and no leaf for in-place ops
                memo[id(tensor)] = (
                    tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_().view_as(tensor)
                )
        args = tuple(_copied(item, memo) for item in self.args)
        return args, {name: _copied(item, memo) for name, item in self.kwargs.items()}


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if callable(value) and not isinstance(value, torch.nn.Module):
        return value
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, RuntimeError, AttributeError, NotImplementedError):  # shared between runs
        return value


def _copies(outputs: Any) -> list[tuple[str, torch.Tensor]]:
    return [(path, tensor.detach().clone()) for path, tensor in tensors_in(outputs)]
