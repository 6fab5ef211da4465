"""A live JAX program that can be run again and again from the same beginning."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax

from whydiff.capturing import process
from whydiff.capturing.adapters import contract, for_framework
from whydiff.capturing.adapters._live import called, checked, equal
from whydiff.capturing.adapters._outputs import outputs_of, same_outputs
from whydiff.capturing.adapters.jax import climbing, internals, values
from whydiff.capturing.adapters.jax.environment import environment
from whydiff.capturing.adapters.jax.interventions import Changes, supported
from whydiff.capturing.adapters.jax.known import Known
from whydiff.capturing.adapters.jax.process import Process
from whydiff.capturing.adapters.jax.reading import READER
from whydiff.capturing.adapters.jax.recorder import Recorder
from whydiff.capturing.adapters.jax.recording import WAYS, Compiled, Recording, Way
from whydiff.capturing.adapters.jax.scopes import modules_named
from whydiff.capturing.adapters.jax.state import arrays_in, at_this_level, put_back, raw, reach, ready
from whydiff.capturing.adapters.jax.written_in import is_foreign
from whydiff.capturing.process import Draws
from whydiff.errors import TargetError, UsageError
from whydiff.records import Call, Intervention, ObserverCheck, Output, RecordedTrace, Trace

Outputs = list[tuple[str, Any]]


class Run(contract.Run):
    """Runs ``target(*args, **kwargs)``; what the run writes to Flax or penzai variables is put back.

    Args:
        target: any callable; a jitted function is one compiled program, anything else runs as JAX dispatches it.
        args, kwargs: its inputs. Arrays cannot change; a program that donates its inputs gets copies.
    """

    framework = "jax"

    def __init__(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.target, self.args, self.kwargs = target, tuple(args), dict(kwargs)
        self.reached = reach(target, self.args, self.kwargs)
        self.compiled = Compiled()
        self.known = Known()
        self._variables = [(variable, raw(variable)) for variable in self.reached.variables]
        self._donates = False
        self._foreign = False
        self._plain: Outputs | None = None
        self._anchor: tuple[Output, ...] | None = None
        self._observed: tuple[Output, ...] = ()
        self._draws = Draws()
        self._rungs: tuple[contract.Rung, ...] | None = None

    def anchor(self) -> tuple[Output, ...]:
        """What the program gives back when nobody watches (H0), as it was the first time this was asked.

        Raises:
            TargetError: the program raised.
        """
        if self._anchor is None:
            self._plain, self._anchor = self._given()
        return self._anchor

    def _given(self) -> tuple[Outputs, tuple[Output, ...]]:
        with self._beginning():
            args, kwargs = self._inputs(copied=self._anchor is None)
            with self._draws:
                result = ready(called(self.target, args, kwargs))
            self._foreign = is_foreign(result)
            return arrays_in(result), outputs_of(result, READER)

    def at_home(self) -> contract.Run:
        """PyTorch's run, where the program names both frameworks and gives back that one's tensors only."""
        self.anchor()
        return for_framework("torch").run(self.target, self.args, self.kwargs) if self._foreign else self

    def capture(self, *, level: str = "op") -> RecordedTrace:
        """Run instrumented, in the least invasive way that gives the plain run's bits.

        Raises:
            TargetError: the program raised.
            UsageError: another level than ``"op"``.
        """
        if level != "op":
            raise UsageError("JAX programs are captured equation by equation.", actual=level, expected="op")
        anchor = self.anchor()
        plain = self._plain or []
        attempts: list[tuple[Way, Recorder, Recording, Outputs, tuple[Output, ...]]] = []
        for way in WAYS:
            attempts.append((way, *self.recorded(way), self._observed))
            self._donates = attempts[-1][2].donated
            if equal(plain, attempts[-1][3], same)[0]:
                break
        way, recorder, recording, outputs, self._observed = attempts[-1]
        if len(attempts) == len(WAYS) and not equal(plain, outputs, same)[0]:
            way, recorder, recording, outputs, self._observed = attempts[0]
        handles = self._handles(recorder)
        self.dispatched = recording.dispatched
        return RecordedTrace(
            framework="jax",
            level="op",
            calls=tuple(recorder.calls),
            leaves=recorder.all_leaves(lambda name: f"leaf/{name}"),
            environment=environment(),
            observer=ObserverCheck(deterministic=None, unchanged=None, outputs=len(outputs), note="not checked yet"),
            ties=self._ties(),
            scalars=self.reached.scalars,
            note=self._note(way, recorder, recording, len(attempts)),
            payloads=self._payloads(recorder),
            handles=handles,
            outputs=anchor,
        )

    def traced_anew(self) -> tuple[Call, ...]:
        """Where there are modules, every recorded run is traced again anyway: there is nothing else to see."""
        if self.reached.classes:
            return ()
        observed = self._observed
        try:
            with internals.traced_anew():
                recorder, _, _ = self.recorded(WAYS[0])
        finally:
            self._observed = observed
        return tuple(recorder.calls)

    def recorded(self, way: Way, recorder: Recorder | None = None) -> tuple[Recorder, Recording, Outputs]:
        """One instrumented run."""
        recorder = recorder or Recorder(self.reached, known=self.known)
        recording = Recording(recorder, way, self.compiled)
        with modules_named(tuple(self.reached.classes)), self._fresh_names(), self._beginning():
            with internals.dispatching(recording), at_this_level(self.reached.variables):
                result = called(self.target, self.args, self.kwargs)
            found = arrays_in(result)
            recorder.returned(found)
            self._observed = outputs_of(ready(result), READER)
        return recorder, recording, found

    def plain(self, interventions: Iterable[Intervention] = (), donor: contract.Executor | None = None) -> Outputs:
        """Run without any instrument, under interventions.

        Raises:
            TargetError: the program raised.
            UsageError: an intervention cannot be carried out here.
        """
        changes = Changes(tuple(interventions), donor, self.reached)
        with self._beginning(), changes.made():
            args, kwargs = changes.inputs(self._inputs())
            return arrays_in(ready(called(changes.target(self.target), args, kwargs)))

    def rungs(self) -> tuple[contract.Rung, ...]:
        """What XLA does to this program, step by step, where compiling it anew gives the bits that it gives; asked once."""
        if self._rungs is None:
            carrying = climbing.Climbing(contract.Way(climbing.LAST))
            anew = self._carried_out(carrying).outputs
            same = anew is not None and same_outputs(self.anchor(), anew)[0]
            self._rungs = climbing.rungs(carrying) if same else ()
        return self._rungs

    def compiled_as(self, way: contract.Way) -> contract.Compiled:
        """See `contract.Run.compiled_as`; what is compiled is the program as it was traced."""
        return self._carried_out(climbing.Climbing(way))

    def _carried_out(self, carrying: climbing.Climbing) -> contract.Compiled:
        try:
            with self._beginning(), internals.dispatching(carrying), at_this_level(self.reached.variables):
                args, kwargs = self._inputs()
                outputs = outputs_of(ready(called(self.target, args, kwargs)), READER)
        except TargetError as error:
            return contract.Compiled(None, carrying.done, failed=error.actual)
        return contract.Compiled(outputs, carrying.done)

    def check(self, trace: Trace | None = None) -> ObserverCheck:
        """H0 and H0′ (plain) against H1 (the capture made in between)."""
        return replace(checked(self.anchor(), self._given()[1], self._observed), drew=self._draws.found)

    def supports(self, intervention: Intervention) -> bool:
        """Whether `plain` can carry this intervention out."""
        return supported(intervention, self.reached)

    def _note(self, way: Way, recorder: Recorder, recording: Recording, attempts: int) -> str:
        parts = [f"values were taken by way of {way!r}"]
        if attempts > 1:
            parts.append(f"less invasive ways that changed the outputs: {attempts - (way != WAYS[0])}")
        unseen = sum(event.unseen for call in recorder.calls for event in call.writes)
        if unseen:
            parts.append(f"{unseen} values lie inside fused regions and were not observed")
        if recording.opaque:
            named = ", ".join(f"{name} ×{count}" for name, count in sorted(recording.opaque.items()))
            parts.append(f"not looked into: {named}")
        if self.compiled.seconds:
            parts.append(f"compiling the instrumented program took {self.compiled.seconds:.1f} s")
        return "; ".join(parts)

    def _handles(self, recorder: Recorder) -> dict[str, Any]:
        handles: dict[str, Any] = {name: ref.value for name, _, ref in recorder.leaves.values()}
        handles |= {f"call/{index}": op for index, op in recorder.ops.items()}
        handles["repeats"] = {}
        handles |= {f"value/{storage}": ref.value for storage, ref in recorder.refs.items() if ref.value is not None}
        return handles

    def _payloads(self, recorder: Recorder) -> dict[str, Any]:
        """Every leaf's host copy, made when somebody asks for it."""
        held = {name: value for name, _, value in self.reached.arrays.values()}
        held |= {name: ref.value for name, _, ref in recorder.leaves.values()}
        return {f"leaf/{name}": functools.partial(values.to_payload, value) for name, value in held.items()}

    def _ties(self) -> tuple[tuple[str, ...], ...]:
        groups: dict[int, list[str]] = {}
        for name, key in self.reached.names:
            groups.setdefault(key, []).append(name)
        return tuple(tuple(names) for names in groups.values() if len(names) > 1)

    @contextmanager
    def _beginning(self) -> Iterator[None]:
        """Variables, and the process, as they were before."""
        kept = process.Process(), Process()
        try:
            yield
        finally:
            for one in kept:
                one.restore()
            for variable, value in self._variables:
                put_back(variable, value)

    @contextmanager
    def _fresh_names(self) -> Iterator[None]:
        """Functions are traced again, so that modules are named, only where there are modules."""
        if not self.reached.classes:
            yield
            return
        with internals.retraced():
            yield

    def _inputs(self, *, copied: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Inputs for one run; copies, if the program donates them or nobody knows yet."""
        if not (copied or self._donates):
            return self.args, self.kwargs
        fresh: tuple[tuple[Any, ...], dict[str, Any]] = jax.tree_util.tree_map(
            lambda leaf: jax.numpy.array(leaf, copy=True) if isinstance(leaf, jax.Array) else leaf,
            (self.args, self.kwargs),
        )
        return fresh


def same(first: Any, second: Any) -> bool:
    """Whether two outputs have the same dtype, shape and bits."""
    return bool(first.dtype == second.dtype) and values.equal(first, second)
