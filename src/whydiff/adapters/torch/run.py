"""A live PyTorch program that can be run again and again from the same beginning."""

from __future__ import annotations

import copy
import random
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from whydiff.adapters.torch.dtypes import integer_view, not_comparable
from whydiff.adapters.torch.environment import flags_now, set_flag
from whydiff.adapters.torch.executor import Executor
from whydiff.adapters.torch.interventions import applied, supported
from whydiff.adapters.torch.outputs import map_tensors, tensors_in, unseen_in
from whydiff.adapters.torch.session import Payloads, Session, Sink
from whydiff.adapters.torch.state import discover
from whydiff.errors import TargetError
from whydiff.records import Intervention, ObserverCheck, RecordedTrace, Trace


class Run:
    """Runs ``target(*args, **kwargs)`` from the same state, inputs and random states every time.

    Args:
        target: a module or any callable.
        args, kwargs: its inputs; tensors are copied for every run, so that in-place changes stay inside.
    """

    def __init__(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.target, self.args, self.kwargs = target, tuple(args), dict(kwargs)
        self.roots, self.tensors = discover(target)
        for _, module in discover([*self.args, *self.kwargs.values()])[0]:
            if not any(module is known for _, known in self.roots):
                self.roots.append(("" if not self.roots else "argument", module))
        self._random = _random_states()
        self._leaves: list[Any] = []
        self._outputs: list[tuple[str, torch.Tensor]] = []
        self._unseen: list[str] = []

    def capture(self, *, level: str = "op") -> RecordedTrace:
        """Run once instrumented.

        Raises:
            TargetError: the program raised.
        """
        session = Session(self.roots, self.tensors, level=level, whole=True)
        with self._beginning() as (args, kwargs):
            with session:
                session.add_inputs(args, kwargs, self.target)
                outputs = self._call(args, kwargs)
                session.returned(outputs)
            self._outputs = _copies(outputs)
            self._unseen = unseen_in(outputs)
            self._leaves = [leaf for leaf in session.leaves if leaf.snapshot is not None]
            session.restore()
        return session.trace(ObserverCheck(None, None, len(self._outputs), "not checked yet"))

    def record(self, sink: Sink, *, level: str = "op", payloads: Payloads = "all", check: bool = True) -> dict[str, Any]:
        """Run once instrumented into a sink (`whydiff.store.TraceWriter`), with outputs named as by `capture`.

        Args:
            sink: receives calls, leaves, contexts and full tensors step by step.
            level: ``"op"`` or ``"module"``.
            payloads: ``"all"``, ``"none"`` or globs over sites, see `Session`.
            check: also run plainly twice, for the observer check.

        Returns:
            What the trace's writer is closed with.

        Raises:
            TargetError: the program raised.
        """
        session = Session(self.roots, self.tensors, level=level, payloads=payloads, sink=sink, whole=True)
        with self._beginning() as (args, kwargs):
            with session:
                session.add_inputs(args, kwargs, self.target)
                outputs = self._call(args, kwargs)
                session.returned(outputs)
            self._outputs, self._unseen = _copies(outputs), unseen_in(outputs)
            self._leaves = [leaf for leaf in session.leaves if leaf.snapshot is not None]
            session.restore()
        manifest = session.manifest()
        return manifest | ({"observer": self.check()} if check else {})

    def plain(
        self, interventions: Iterable[Intervention] = (), donor: Executor | None = None
    ) -> list[tuple[str, torch.Tensor]]:
        """Run without any instrument, under interventions.

        Raises:
            TargetError: the program raised.
            UsageError: an intervention cannot be carried out here.
        """
        with self._beginning() as (args, kwargs):
            try:
                with applied(list(interventions), self.roots, self.tensors, args, kwargs, self.target, donor) as call:
                    return _copies(self._call(*call))
            finally:
                for leaf in self._leaves:
                    leaf.restore()

    def check(self, trace: Trace | None = None) -> ObserverCheck:
        """H0 and H0′ (plain) against H1 (the capture made before, whose outputs this run remembers)."""
        first, second = self.plain(), self.plain()
        deterministic, where = _equal(first, second)
        unchanged, changed_at = _equal(first, self._outputs)
        note = ""
        if not deterministic:
            note = f"two plain runs differ at {where}"
        elif not unchanged:
            note = f"the instrumented run differs from the plain one at {changed_at}"
        elif self._unseen:
            note = f"not looked into: {', '.join(sorted(set(self._unseen)))} in the result"
        if not first:
            return ObserverCheck(None, None, 0, "the run returned no tensor to compare")
        return ObserverCheck(deterministic, unchanged if deterministic else None, len(first), note)

    def supports(self, intervention: Intervention) -> bool:
        """Whether `plain` can carry this intervention out."""
        return supported(intervention, self.roots, self.tensors)

    @contextmanager
    def _beginning(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The same random states and fresh inputs; the user's random states and flags come back after."""
        before, flags = _random_states(), flags_now()
        modes = [(module, module.training) for _, root in self.roots for module in root.modules()]
        gradients = [(p, p.grad) for _, root in self.roots for p in root.parameters() if p.grad is not None]
        parameters = [p for _, root in self.roots for p in root.parameters()]
        _set_random_states(self._random)
        kept = {id(p): p.grad.clone() for p, _ in gradients if p.grad is not None}
        try:
            yield _fresh(self.args), _fresh(self.kwargs)
        finally:
            for parameter in parameters:
                parameter.grad = None
            for parameter, gradient in gradients:
                gradient.data.copy_(kept[id(parameter)])
                parameter.grad = gradient
            for module, training in modes:
                module.training = training
            for name, value in flags.as_dict().items():
                if flags_now().as_dict()[name] != value:
                    set_flag(name, value)
            _set_random_states(before)

    def _call(self, args: Any, kwargs: Any) -> Any:
        try:
            return self.target(*args, **kwargs)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "/whydiff/" not in f.filename.replace("\\", "/")]
            own = [f for f in ours if "site-packages" not in f.filename] or ours
            place = f"{own[-1].filename}:{own[-1].lineno}" if own else ""
            raise TargetError(
                "The target raised while it ran.", where=place, actual=f"{type(error).__name__}: {error}",
                expected="a run that ends", next_step="run the target alone with the same inputs",
            ) from error


def _fresh(value: Any) -> Any:
    """Copies of tensors with their strides; other mutable objects are deep-copied, modules are not."""
    with ExitStack():
        if isinstance(value, torch.Tensor):
            return _copy(value)
        if isinstance(value, (list, tuple, dict)):
            mapped = map_tensors(value, _copy)
            if isinstance(mapped, dict):
                return {key: _fresh_object(item) for key, item in mapped.items()}
            if type(mapped) in (list, tuple):
                return type(mapped)(_fresh_object(item) for item in mapped)
            return mapped
        return _fresh_object(value)


def _fresh_object(value: Any) -> Any:
    if isinstance(value, (torch.Tensor, torch.nn.Module, list, tuple, dict)) or callable(value):
        return value
    try:
        return copy.deepcopy(value)
    except (TypeError, RuntimeError, AttributeError):  # cannot be copied: shared between runs
        return value


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    if not_comparable(tensor):
        return tensor
    if tensor.requires_grad and not tensor.is_leaf:
        return tensor
    return tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_(tensor.requires_grad)


def _copies(outputs: Any) -> list[tuple[str, torch.Tensor]]:
    return [(path, tensor.detach().clone()) for path, tensor in tensors_in(outputs)]


def _equal(first: Sequence[tuple[str, Any]], second: Sequence[tuple[str, Any]]) -> tuple[bool, str]:
    if [path for path, _ in first] != [path for path, _ in second]:
        return False, "the structure of the result"
    for (path, one), (_, other) in zip(first, second, strict=True):
        if not_comparable(one) or not_comparable(other):
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            return False, path
        if not torch.equal(integer_view(one), integer_view(other)):
            return False, path
    return True, ""


def _random_states() -> tuple[Any, ...]:
    devices = [torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())] if _cuda() else []
    return torch.get_rng_state(), devices, random.getstate(), np.random.get_state()


def _set_random_states(states: tuple[Any, ...]) -> None:
    cpu, devices, python, numpy = states
    torch.set_rng_state(cpu)
    for index, state in enumerate(devices):
        torch.cuda.set_rng_state(state, index)
    random.setstate(python)
    np.random.set_state(numpy)


def _cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()
