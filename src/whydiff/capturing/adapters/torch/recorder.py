"""Op-level capture: a dispatch mode that writes down every ATen op, what it read and what it wrote.

The hot path keeps plain tuples; `Recorder.pending` turns them into records. Nothing here changes a number: no
copy, no ``contiguous()`` on what the program sees, no host synchronisation beyond fingerprints.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from whydiff.capturing.adapters.torch.collectives import desugared, rank, who
from whydiff.capturing.adapters.torch.dtypes import not_comparable
from whydiff.capturing.adapters.torch.lines import Located
from whydiff.capturing.adapters.torch.looks import Touched
from whydiff.capturing.adapters.torch.operators import DESCRIBED, Operator, decomposed, describe, draws
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.rows import Log, Making, Row
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.capturing.adapters.torch.straight import MANY, NUMBERS, Straight
from whydiff.capturing.adapters.torch.surroundings import (
    compiled_backward,
    function_modes,
    jit_tracing,
    modes_below,
    take_out,
    tracing,
    unseen,
)
from whydiff.capturing.adapters.torch.writing import Begun, flat, is_hole, resolved
from whydiff.errors import CaptureError, one_line
from whydiff.garbage import not_collecting
from whydiff.records import Call, HoleKind, Kind, Payload, Site
from whydiff.records.trace import GRAPH, UPDATE

T = TypeVar("T")
_current_node: Any = torch._C._current_autograd_node
TRACED: dict[HoleKind, str] = {
    "tracing": "operators that ran while the program was traced",
    "fake": "operators on tensors without numbers",
}


class Recorder(Straight, TorchDispatchMode):
    """Records every op that runs on this thread while it is active.

    What cannot be recorded is counted in `holes`; an exception of the recorder's own never reaches the program.

    Args:
        scopes: tells scope, phase and step.
        keep: says for which sites (as text) the full written tensors are kept; None keeps none.
        sink: receives (key, payload) for every kept tensor and random state; False: it was left out.
        fingerprints: False records structure only.

    Attributes:
        on_many: called when many calls wait for `pending`.
        silent: nothing is recorded any more.
        refusable: a `CaptureError` of the sink goes through.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        scopes: Scopes,
        *,
        keep: Callable[[str], bool] | None = None,
        sink: Callable[[str, Payload], bool] | None = None,
        fingerprints: bool = True,
    ) -> None:
        Straight.__init__(self, scopes, keep, sink, fingerprints)
        TorchDispatchMode.__init__(self)
        self._rank = rank().number
        self.silent = self.refusable = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No wrapper around every op: the compiler does not meet it (`regions`, `compiled.StandingBack`)."""
        return False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """The compiler need not give up because of it."""
        return True

    def __enter__(self) -> Any:
        """Enter the stack of modes."""
        self.arriving.begin()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        """Leave the stack of modes, also where others were entered since and are still there."""
        self.arriving.end()
        if take_out(self) is None:
            self.silent = True  # left on another thread than it was entered on

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.silent:
            return func(*args, **kwargs)
        if types and desugared(types):
            return NotImplemented
        if type(func) is not OpOverload or modes_below() or function_modes() or jit_tracing() is not None:
            return self._surrounded(func, args, kwargs)
        known = DESCRIBED.get(id(func))
        operator = describe(func) if known is None else known[1]
        if operator.straight and (_current_node() is None or not compiled_backward()):
            return self.straight(func, operator, args, kwargs)
        return self._met_op(func, args, kwargs)

    def _surrounded(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An op under a tracer or a user's modes, which must not notice; or one that is a whole program."""
        kind = tracing()
        if kind is not None:
            self.holes.add(kind, TRACED[kind], self.scopes.scope)
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if not isinstance(func, OpOverload):
                return self._region(str(func), func, args, kwargs)
            return self._met_op(func, args, kwargs, unseen)

    def _region(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        reads = self.guarded(name, lambda: self.going_in(args, kwargs)) or []
        result = func(*args, **kwargs)
        self.guarded(name, lambda: self.region(name, "higher-order", reads, result))
        return result

    def guarded(self, where: str, work: Callable[[], T]) -> T | None:
        """What ``work()`` gives; None, and a hole, if it raises."""
        try:
            with unseen():
                return work()
        except Exception as error:  # noqa: BLE001 - it is counted
            self.failed(where, error)
            return None

    def _met_op(self, func: Any, args: Any, kwargs: Any, quiet: Callable[[], Any] = nullcontext) -> Any:
        operator = describe(func)
        if operator.composite and not any(isinstance(a, torch.Tensor) and a.is_nested for a in args):
            with self:
                return decomposed(func, args, kwargs)
        if operator.waits:
            result = func(*args, **kwargs)
            self.guarded(operator.op, lambda: self.looks(args))
            return result
        if operator.silent or compiled_backward():
            if not operator.silent:
                self.holes.add("compiled", "the backward pass of compiled code", self.scopes.scope)
            return func(*args, **kwargs)
        try:
            with quiet():
                begun = self._begin(func, operator, args, kwargs)
        except Exception as error:  # noqa: BLE001 - it is counted
            self.failed(operator.op, error)
            return func(*args, **kwargs)
        try:
            result = func(*args, **kwargs)
        except BaseException:
            for _, _, storage in begun.touched:  # nobody knows how far it came
                storage.forget()
            raise
        try:
            with quiet():
                self._end(operator, begun, args, result)
        except BaseException as error:
            for _, _, storage in begun.touched:
                storage.forget()
            self._again += 1
            self.failed(operator.op, error)
            if not isinstance(error, Exception):
                raise
        if len(self._log.rows) >= MANY and self.on_many is not None:
            self.on_many()
        return result

    def failed(self, where: str, error: BaseException) -> None:
        """Count something that was not recorded because of an exception here.

        Raises:
            CaptureError: the sink refuses to go on, and the program was started by who captures it.
        """
        if self.refusable and isinstance(error, CaptureError):
            raise error
        self.holes.add("failed", one_line(error), f"{self.scopes.scope}:{where}")

    def _begin(self, func: Any, operator: Operator, args: Any, kwargs: Any) -> Begun:
        if self.found:
            self.note_found()
        phase, scope = self.scopes.phase_and_scope()
        reads: list[Row] = []
        touched: list[Touched] = []
        if operator.rebinds:
            template: Any = ([self._take(a, reads, None, operator) for a in args], {})
            return Begun(phase, scope, reads, touched, template, "", 0, ())
        if operator.writes:
            written, positions = operator.written_names, operator.writes_to(args)
            template = (
                [self._take(a, reads, touched if i in positions else None, operator) for i, a in enumerate(args)],
                {k: self._take(a, reads, touched if k in written else None, operator) for k, a in kwargs.items()},
            )
            for _, tensor, storage in touched:
                self._before_write(tensor, storage)
        else:
            template = ([], {})
            for value in args:
                template[0].append(value if type(value) in NUMBERS else self._take(value, reads, None, operator))
            if kwargs:
                template = template[0], {k: self._take(a, reads, None, operator) for k, a in kwargs.items()}
        if operator.exchange is not None:
            template = (*template, who(func._schema, template[0], operator.exchange.kind))
            self.announcing.tell(operator, (phase, scope, self.scopes.step), reads, template)
        random = self._random_state(args, kwargs) if operator.random and draws(func, args, kwargs) else ""
        held = [tensor.untyped_storage().nbytes() for _, tensor, _ in touched] if operator.resizes else ()
        return Begun(phase, scope, reads, touched, template, random, self._context(), held)

    def _end(self, operator: Operator, begun: Begun, args: Any, result: Any) -> None:
        phase, scope, reads, touched, template, random, context, held = begun
        index, number = self._log.next, self._occurrence(scope, operator.op, phase)
        if operator.rebinds:  # ``set_``: from here on the tensor is a look at another storage; no number changes
            if not not_comparable(result) and self.storages.of(result) is None:
                self._met(result)
            writes, _ = self._outputs(operator, index, result, [], False)
            kind: Kind = "view"
        else:
            for nbytes, (_, tensor, storage) in zip(held, touched, strict=True) if operator.resizes else ():
                storage.initialised = storage.initialised and tensor.untyped_storage().nbytes() <= nbytes
            wanted = (self.keep is not None and self.keep(f"{scope}:{operator.op}#{number}")) or is_hole(reads, args)
            if operator.exchange is not None:
                kind, writes = "compute", self._exchanged(index, result, touched)
            else:
                writes, kind = self._outputs(operator, index, result, touched, wanted)
        mutates = tuple(position for position, _, _ in touched) if touched else ()
        step = self.scopes.step
        self._log.rows.append(
            (index, scope, operator, phase, step, kind, reads, writes, template, mutates, context, random, number)
        )

    def _exchanged(self, index: int, result: Any, touched: list[Touched]) -> list[Row]:
        """Places for what a collective writes, which is there once the program has waited for it."""
        writes: list[Row] = []
        for tensor in [tensor for _, tensor, _ in touched] or flat(result):
            storage = self.storages.of(tensor) or self.storages.add(tensor, index)
            storage.forget()
            storage.producer, storage.initialised = index, True
            key = self._key(index, len(writes)) if self.keep is not None else ""
            self.arriving.expect(tensor, storage, index, key, writes)
        return writes

    def returned(self, outputs: Any, scope: str = "") -> None:
        """Record what the run (or the outermost module) gave back, as a call of kind ``return``."""
        found = [(path, resolved(tensor)) for path, tensor in tensors_in(outputs)]
        with _disable_current_modes():
            reads = [self._look(tensor, None, 0, None) for _, tensor in found]
        self._append("return", scope, "return", reads, [], [path for path, _ in found])

    def updating(self, scope: str, state: Sequence[tuple[str, torch.Tensor]], arguments: dict[str, Any]) -> None:
        """Record what a step of an optimizer begins with, as a look at its state."""
        reads = [self._look(tensor, None, 0, None) for _, tensor in state]
        number = self._occurrence(scope, "step", "update")
        what = (UPDATE, "step", [slot for slot, _ in state], arguments)
        self._log.rows.append(
            (self._log.next, scope, what, "update", self.scopes.step, "view", reads, [], ([], {}), (), 0, "", number)
        )

    def before_graph(self) -> None:
        """A CUDA graph is about to run and to write to memory that it tells nobody."""
        self.guarded(GRAPH, self.storages.queue.flush)

    def after_graph(self) -> None:
        """Nothing that was known of a device's memory holds any more."""
        self.storages.forget_devices(self._log.next)
        self.guarded(GRAPH, lambda: self._append("compute", self.scopes.phase_and_scope()[1], GRAPH, [], []))

    def region(self, name: str, kind: HoleKind, reads: list[Row], result: Any) -> None:
        """Record a part of the program that ran as one, after it ran: what it changed inside is not known."""
        scope = self.scopes.scope
        self.holes.add(kind, f"{name} ran as one", scope)
        self.storages.forget()
        op = f"{kind} {name}"
        wanted = self.keep is not None and self.keep(f"{scope}:{op}")
        given = [tensor for _, tensor in tensors_in(result)]
        writes, _ = self._outputs(describe(torch.ops.aten.clone.default), self._log.next, given, [], wanted)
        self._append("compute", scope, op, reads, writes, template=([self], {}))

    def locate(self, sites: Collection[Site]) -> Located:
        """Before a run that is only made for it: note from which lines of the user's code these calls come."""
        self.fingerprints, located = False, Located(sites)
        self._log = Log(0, located)
        return located

    def look_once_more(self, *, everything: bool) -> None:
        """The program has ended: what it wrote outside torch, and no op read since, is seen now.

        Args:
            everything: False: only in memory that was seen to be on loan; whoever asked for the run has its outputs.
        """
        if not self.silent:
            self.guarded("the end", lambda: self.look_at_all(everything=everything))

    def _append(
        self,
        kind: Kind,
        scope: str,
        op: str,
        reads: list[Row],
        writes: list[Row],
        slots: list[str] | None = None,
        template: Any = ([], {}),
    ) -> None:
        """Write down a call that is no operator: a return, a whole module, a region."""
        if self.found:
            self.note_found()
        phase = "backward" if torch._C._current_autograd_node() is not None else "forward"
        number = self._occurrence(scope, op, phase)
        index, step = self._log.next, self.scopes.step
        self._log.rows.append(
            (index, scope, (op, slots), phase, step, kind, reads, writes, template, (), 0, "", number)
        )

    def entered(self, scope: str, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        """A module begins (of interest at module level only)."""

    def left(self, scope: str, module: torch.nn.Module, output: Any) -> None:
        """A module ends (of interest at module level only)."""

    def pending(self, quiet: Callable[[], AbstractContextManager[None]] = not_collecting) -> list[Call]:
        """Calls that were not handed on yet, as records; `handed_on` says that they were. They are made in ``quiet()``."""
        if len(self._log.rows) >= MANY:
            self.arriving.give_up()
        rows = self._log.rows[: self.arriving.before(self._log.next) - self._log.base]
        made = Making(self._rank)
        self.storages.queue.flush()
        with quiet() if rows else nullcontext():
            calls = [made.call_of(row) for row in rows]  # while a device reads
        self.storages.queue.settle()
        made.settle()
        return calls

    def handed_on(self, count: int) -> None:
        """Forget the first calls that wait."""
        self._log = Log(self._log.base + count, self._log.rows[count:])
