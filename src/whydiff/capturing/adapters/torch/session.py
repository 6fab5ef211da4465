"""One capture: scopes, recorder and state together, feeding a sink step by step."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from whydiff.capturing.adapters import contract
from whydiff.capturing.adapters._outputs import outputs_of
from whydiff.capturing.adapters.torch import elsewhere, lending, regions
from whydiff.capturing.adapters.torch.aside import StandsAside
from whydiff.capturing.adapters.torch.compiled import StandingBack
from whydiff.capturing.adapters.torch.device.graphs import replays_told
from whydiff.capturing.adapters.torch.dtypes import borrowed_payload
from whydiff.capturing.adapters.torch.environment import environment
from whydiff.capturing.adapters.torch.module_recorder import ModuleRecorder
from whydiff.capturing.adapters.torch.optimizers import parameters_of, settings_of
from whydiff.capturing.adapters.torch.optimizers import state_of as state_of_optimizer
from whydiff.capturing.adapters.torch.reading import READER
from whydiff.capturing.adapters.torch.recorder import Recorder
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.capturing.adapters.torch.state import LiveLeaf, Roots, config_of, inputs_of, scalars_of, state_of, ties_of
from whydiff.capturing.adapters.torch.surroundings import unseen
from whydiff.capturing.adapters.torch.watcher import Watcher
from whydiff.capturing.sink import Payloads, Sink, put_away, wanted
from whydiff.errors import UsageError, one_line
from whydiff.garbage import frozen, lasting, not_collecting, set_aside
from whydiff.records import Call, Environment, HoleKind, ObserverCheck, Output, Payload, RecordedTrace

_ROOM = 200
"""Frames that a capture may need beside those that it adds to every module call."""


class Session(StandsAside, contract.Session):
    """Captures what runs inside its ``with`` block on this thread.

    Args:
        roots: (prefix, module) known beforehand.
        tensors: (name, tensor) that a closure reaches and no module owns.
        level: ``"op"`` (every ATen op) or ``"module"`` (module inputs and outputs only).
        payloads: which full tensors go to the sink: ``"all"``, ``"none"`` or globs over sites such as
            ``"model.layers.0.*:mm#*"`` (leaves are then kept as well, so that the trace can be replayed).
        sink: receives everything step by step; None keeps the capture in memory.
        whole: the caller records inputs and result itself (`Run`), so module boundaries are not results.
    """

    def __init__(
        self,
        roots: Roots = [],  # noqa: B006 - never changed
        tensors: Iterable[tuple[str, torch.Tensor]] = (),
        *,
        level: str = "op",
        payloads: Payloads = "none",
        sink: Sink | None = None,
        whole: bool = False,
    ) -> None:
        if level not in ("op", "module"):
            raise UsageError("There is no such capture level.", actual=level, expected="op or module")
        self.level, self.sink, self.payloads = level, sink, payloads
        self.environment: Environment = environment()
        self._whole = whole
        self._roots: Roots = []
        self._known_roots = list(roots)
        self._tensors = list(tensors)
        self._scalars: dict[str, Any] = {}
        self._config: dict[str, Any] = {}
        self._calls: list[Call] = []
        self._outputs: list[Output] = []
        self._returns = 0
        self._random_states: dict[str, Payload] = {}
        self._names, self._parameters = dict[str, int](), dict[int, str]()
        self._uncompiled = StandingBack()
        self.scopes = Scopes(
            on_enter=self._enter,
            on_exit=self._exit,
            on_step=self._begin_step,
            on_root=self._add_root,
            on_update=self._begin_update,
            on_updated=self._mark,
            on_failure=self._failed,
            on_hole=self._hole,
            inner=level == "module",
        )
        kind = Recorder if level == "op" else ModuleRecorder
        self.recorder: Recorder = kind(self.scopes, keep=wanted(payloads), sink=self._keep)
        self._watcher = Watcher(self.recorder) if whole and level == "module" else None
        self.thread = threading.get_ident()
        self._leaving, self._in_child = ExitStack(), False
        self.recorder.refusable = whole

    def __enter__(self) -> Session:
        with ExitStack() as stack:  # what was begun ends, whatever interrupts the beginning
            for prefix, module in self._known_roots:
                self.scopes._add_root(prefix, module)
            for name, tensor in self._tensors:
                self.recorder.add_leaf(LiveLeaf(self._unique(name), "attribute", tensor))
            _running.add(self)
            stack.callback(_running.discard, self)
            if not frozen():
                # What exists now is not searched for garbage over and over because this makes many small records.
                gc.collect(1)  # what is young garbage now would be old when it is looked for again
                stack.enter_context(set_aside())
            if self._whole:
                if self.level == "op":
                    stack.enter_context(self._uncompiled)
            else:
                stack.enter_context(_deeper())
                stack.callback(regions.leave, self)
                regions.listen(self)
                if self.level == "op":
                    stack.callback(elsewhere.stop, self.recorder.holes)
                    elsewhere.count(self.recorder.holes)
            if self.sink is not None:
                self.recorder.on_many, self.recorder.announcing.listener = self._many, self.sink.about_to_exchange
            stack.enter_context(replays_told(self.recorder.before_graph, self.recorder.after_graph))
            stack.callback(self.scopes.detach)
            self.scopes.__enter__()
            stack.enter_context(self.recorder.told_of_loans())
            stack.push(self.recorder)
            self.recorder.__enter__()
            if self._watcher is not None:
                stack.enter_context(self._watcher)
            self._leaving = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            if not self._whole:
                self.recorder.look_once_more(everything=self.sink is not None)
            self._leaving.close()
        finally:
            if not self._in_child:
                self._hand_on()
            self.scopes.silence()
            self.recorder.sink = self.recorder.on_many = self.recorder.announcing.listener = None  # let go of who asked

    # ------------------------------------------------------------------ what cannot be recorded

    def _failed(self, where: str, error: BaseException) -> None:
        self.recorder.failed(where, error)

    def _hole(self, kind: HoleKind, why: str) -> None:
        self.recorder.holes.add(kind, why, self.scopes.scope)

    def add_inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any], target: Any = None, scope: str = "") -> None:
        """Name the tensors that a call is given, by the parameter's name where the signature tells it.

        Inputs of a later step or of a further root say so: ``"decoder.x @step 2"``.
        """
        before = f"{scope}." if scope else ""
        after = f" @step {self.scopes.step}" if self.scopes.step else ""
        with unseen():
            for path, tensor in inputs_of(target, args, kwargs):
                leaf = LiveLeaf(f"{before}{path}{after}", "input", tensor)
                if leaf.skipped or self.recorder.storages.of(tensor) is None:
                    leaf.name = self._unique(leaf.name)
                    self.recorder.add_leaf(leaf)

    def expect(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Name the state of optimizers; it becomes part of the trace where an op touches it."""
        with unseen():
            for optimizer in optimizers:
                owners = self._owners(optimizer)
                for slot, value in state_of_optimizer(optimizer):
                    position, _, key = slot.partition(".")
                    if isinstance(value, torch.Tensor):
                        name = f"{type(optimizer).__name__}.{owners[int(position)]}.{key}"
                        self._expect(LiveLeaf(name, "attribute", value))

    def _owners(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """What an optimizer's parameters are called."""
        return [self._parameters.get(id(p), str(n)) for n, p in enumerate(parameters_of(optimizer))]

    def _begin_update(self, optimizer: torch.optim.Optimizer) -> None:
        self.expect([optimizer])
        if self.level != "op":
            return
        state = list(state_of_optimizer(optimizer))
        arguments = {
            "settings": settings_of(optimizer),
            "state": {slot: value for slot, value in state if not isinstance(value, torch.Tensor)},
            "parameters": self._owners(optimizer),
        }
        tensors = [(slot, value) for slot, value in state if isinstance(value, torch.Tensor)]
        self.recorder.updating(type(optimizer).__name__, tensors, arguments)

    def _expect(self, leaf: LiveLeaf) -> None:
        if self.recorder.expect(leaf):
            leaf.name = self._unique(leaf.name)

    def _unique(self, name: str) -> str:
        """The name itself, or with a number if another leaf has it."""
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}#{count}" if count else name

    def returned(self, outputs: Any) -> None:
        """Name the tensors that the run gives back."""
        self.recorder.look_once_more(everything=self.sink is not None)
        self.recorder.returned(outputs)

    @property
    def calls(self) -> list[Call]:
        """What was recorded so far and went to no sink."""
        if self.sink is None:
            fresh = self.recorder.pending(lasting)
            self._calls.extend(fresh)
            self.recorder.handed_on(len(fresh))
        return self._calls

    @property
    def leaves(self) -> list[LiveLeaf]:
        """Live leaves, in the order of discovery."""
        return self.recorder.leaves

    def restore(self) -> None:
        """Undo what the run did to tensors that existed before it."""
        for leaf in self.recorder.leaves:
            leaf.restore()

    def trace(self, observer: ObserverCheck) -> RecordedTrace:
        """The whole capture as a trace in memory; leaves stay references to the user's tensors."""
        payloads: dict[str, Any] = dict(self._random_states)
        for leaf in self.recorder.leaves:
            if not leaf.skipped and leaf.has_beginning():
                payloads[f"leaf/{leaf.name}"] = leaf.payload
        return RecordedTrace(
            framework="torch",
            level=self.level,
            calls=tuple(self.calls),
            leaves=tuple(leaf.record(kept=True) for leaf in self.recorder.leaves),
            payloads=payloads,
            handles={leaf.name: leaf.value for leaf in self.recorder.leaves if not leaf.lost},
            holes=self.recorder.holes.all(),
            **self.summary(observer),
        )

    def manifest(self) -> dict[str, Any]:
        """What a trace's writer is closed with, after the block."""
        note, changed = "not run: a capture sees the program once", None
        if self._uncompiled.calls:
            changed, note = (
                False,
                f"{self._uncompiled.calls} call(s) of compiled functions ran uncompiled while ops were recorded",
            )
        unchecked = ObserverCheck(deterministic=None, unchanged=changed, outputs=0, note=note)
        found = {name: value for name, value in self.summary(unchecked).items() if name != "contexts"}
        return found | {"outputs": tuple(self._outputs), "holes": self.recorder.holes.all()}

    def keep(self, outputs: Sequence[Output]) -> tuple[Output, ...]:
        """Outputs as a trace on disk names them: numbers by fingerprint, their bits given to the sink."""
        kept = self.sink if self.payloads != "none" else None
        return tuple(put_away(output, kept) for output in outputs)

    def summary(self, observer: ObserverCheck) -> dict[str, Any]:
        """What belongs to the manifest of a trace."""
        return {
            "environment": self.environment,
            "observer": observer,
            "ties": ties_of(self.recorder.leaves),
            "scalars": self._scalars,
            "config": self._config,
            "contexts": tuple(self.recorder.contexts) or ({},),
        }

    # ------------------------------------------------------------------ what scopes tell

    def _add_root(self, prefix: str, module: torch.nn.Module) -> None:
        self._roots.append((prefix, module))
        with unseen():
            found = list(state_of(prefix, module))
            for leaf in found:
                leaf.name = self._unique(leaf.name)
            self.recorder.add_leaves(found)
            for leaf in found:
                if leaf.role == "parameter":
                    self._parameters.setdefault(id(leaf.tensor), leaf.name)
                    if leaf.tensor.grad is not None:
                        self._expect(LiveLeaf(f"{leaf.name}.grad", "attribute", leaf.tensor.grad))
        self._scalars.update(self._readable("attributes", lambda: scalars_of(prefix, module)))
        if not prefix or not self._config:
            self._config.update(self._readable("configuration", lambda: config_of(module)))

    def _readable(self, what: str, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the program's own code shows of itself; nothing, and a hole, if that raises."""
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - it is counted
            self.recorder.holes.add("unreadable", f"{what}: {one_line(error)}", self.scopes.scope)
            return {}

    def _enter(self, scope: str, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if len(self.scopes.stack) == 1 and not self._whole:
            self.add_inputs(args, kwargs, module, scope)
        self.recorder.entered(scope, module, args, kwargs)

    def _exit(self, scope: str, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.recorder.left(scope, module, output)
        if len(self.scopes.stack) == 1 and not self._whole and torch._C._current_autograd_node() is None:
            self.recorder.returned(output, scope)
            self._returns += 1
            if self.sink is not None:  # in memory, whoever asked for the run looks at its outputs
                with unseen():
                    self._outputs += self.keep(outputs_of(output, READER, self._returns - 1))
            self._mark()

    def _begin_step(self, step: int) -> None:
        self._hand_on()
        if self.sink is not None and not self._in_child:
            self.sink.end_step()
        self.recorder.storages.prune()

    def _many(self) -> None:
        """A step is long: what waits is handed on, and what nobody holds any more is forgotten."""
        self._hand_on()
        self.recorder.storages.prune()

    def _mark(self) -> None:
        """A forward pass or an optimizer's step has ended: what it did survives the end of the process."""
        if self.sink is not None and not self._in_child:
            self._hand_on()
            self.sink.mark()

    def _keep(self, key: str, payload: Payload) -> bool:
        if self.sink is None:
            self._random_states[key] = replace(payload, bits=payload.bits.copy())  # the program goes on writing there
            return True
        return self.sink.add_payload(key, payload)

    def _hand_on(self) -> None:
        """Give the sink what was recorded; in memory, records are made when they are asked for."""
        try:
            with unseen(), not_collecting():  # records are gone again when they are written
                self._drain()
        except Exception as error:  # noqa: BLE001 - it is counted
            self._failed("writing", error)

    def _drain(self) -> None:
        if self.sink is None:
            return
        if self.sink.ended:
            self.recorder.silent = True
            self.recorder.handed_on(len(self.recorder.pending()))
            return
        calls = self.recorder.pending()
        self.sink.add_contexts(self.recorder.contexts[self.sink.contexts_taken :])
        kept = self.payloads != "none"
        fresh = self.recorder.leaves[self.sink.leaves_taken :]
        written = [
            kept
            and not (leaf.skipped or leaf.settled or leaf.lost)
            and self._keep(f"leaf/{leaf.name}", borrowed_payload(leaf.value))
            for leaf in fresh
        ]
        self.sink.add_leaves([leaf.record(kept=has) for leaf, has in zip(fresh, written, strict=True)])
        if not self._whole:  # nothing will be restored
            for leaf in fresh:
                leaf.settle()
        self.sink.add_calls(calls)
        self.recorder.handed_on(len(calls))


_running: weakref.WeakSet[Session] = weakref.WeakSet()


@contextmanager
def _deeper() -> Iterator[None]:
    """Room for the frames that a capture adds; a limit that the program sets itself inside the block stays."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(_ROOM + before * 2)
    try:
        yield
    finally:
        if sys.getrecursionlimit() == _ROOM + before * 2:
            sys.setrecursionlimit(before)


def _after_fork() -> None:
    """A forked process (a data loader's worker) must not write to its parent's trace."""
    for session in tuple(_running):
        session._in_child = True
        session.scopes.detach()
        session.recorder.silent = True
        regions.leave(session)
        elsewhere.stop(session.recorder.holes)
        lending.leave(session.recorder)
    _running.clear()


os.register_at_fork(after_in_child=_after_fork)
