"""Optimizers: what a step of one begins with, and steps of a live run that begin with something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from whydiff.capturing.adapters.contract import Executor
from whydiff.errors import UsageError
from whydiff.records import Call, Intervention

RESTORE, SET = "restore-optimizer", "set-hyperparameter"
INTERVENTIONS = frozenset({RESTORE, SET})
_PLAIN = (bool, int, float, str, type(None))


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Every parameter, in the order of the groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def settings_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """``"<group>.<name>"`` → plain hyperparameter; those that are tensors are read where that costs no waiting."""
    found: dict[str, Any] = {}
    for number, group in enumerate(optimizer.param_groups):
        for name, value in group.items():
            if isinstance(value, torch.Tensor) and value.numel() == 1 and value.device.type == "cpu":
                found[f"{number}.{name}"] = value.item()
            elif isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(v, _PLAIN) for v in value)):
                found[f"{number}.{name}"] = value
    return found


def state_of(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    """(``"<position of the parameter>.<name>"``, tensor or plain value)."""
    for position, parameter in enumerate(parameters_of(optimizer)):
        state = optimizer.state.get(parameter, {})
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, (torch.Tensor, bool, int, float)):
                yield f"{position}.{name}", value


class Slots:
    """What an optimizer keeps of all parameters, by its name there: sorted out once, and again when something was added."""

    def __init__(self) -> None:
        self._keys: list[Any] = []
        self._kinds: list[type] = []
        self._tensors: list[int] = []
        self._numbers: list[int] = []
        self.names: dict[str, tuple[list[int], list[int]]] = {}

    def of(self, optimizer: torch.optim.Optimizer | None) -> tuple[list[torch.Tensor], list[Any]]:
        """Tensors and plain numbers, in the order of `state_of`; ``names`` then says which of either stand by a name."""
        kept = optimizer.state if optimizer is not None else {}
        states = [kept.get(parameter) for parameter in (parameters_of(optimizer) if optimizer is not None else ())]
        known = [state for state in states if isinstance(state, dict)]
        keys, values = [key for state in known for key in state], [one for state in known for one in state.values()]
        kinds = list(map(type, values))
        if kinds != self._kinds or not all(map(is_, keys, self._keys)):
            self._keys, self._kinds = keys, kinds
            self._sort(values)
        return [values[i] for i in self._tensors], [values[i] for i in self._numbers]

    def _sort(self, values: Sequence[Any]) -> None:
        self._tensors, self._numbers, self.names = [], [], {}
        for i, (key, value) in enumerate(zip(self._keys, values, strict=True)):
            if isinstance(value, (torch.Tensor, bool, int, float)):
                tensor = isinstance(value, torch.Tensor)
                found = self._tensors if tensor else self._numbers
                self.names.setdefault(f"{key}", ([], []))[not tensor].append(len(found))
                found.append(i)


@contextmanager
def stepping_otherwise(interventions: Sequence[Intervention], donor: Executor | None) -> Iterator[None]:
    """Optimizer steps inside the block begin with other state or hyperparameters; steps are counted from 0.

    Args:
        interventions: ``restore-optimizer <step> = <the donor's step>``; ``set-hyperparameter <group>.<name> = ((step,
            value), …)``.
        donor: executor of the other side.

    Raises:
        UsageError: the other side has no such step, or its state cannot be had.
    """
    restored = {int(i.target): _state_at(donor, int(i.value)) for i in interventions if i.name == RESTORE}
    wanted: dict[int, list[tuple[str, Any]]] = {}
    for item in interventions:
        for step, value in item.value if item.name == SET else ():
            wanted.setdefault(step, []).append((item.target, value))
    count, before = 0, []

    def begin(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        nonlocal count
        if count in restored:
            _restore(optimizer, restored[count])
        for target, value in wanted.get(count, ()):
            group, _, name = target.partition(".")
            settings = optimizer.param_groups[int(group)]
            before.append((settings, name, settings[name]))
            settings[name] = value
        count += 1

    def end(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        while before:  # a scheduler goes on from what the program itself had set
            settings, name, value = before.pop()
            settings[name] = value

    handles = [register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _restore(optimizer: torch.optim.Optimizer, wanted: Mapping[str, Any]) -> None:
    parameters = parameters_of(optimizer)
    optimizer.state.clear()
    for key, value in wanted.items():
        position, _, name = key.partition(".")
        state = optimizer.state[parameters[int(position)]]
        state[name] = value.clone() if isinstance(value, torch.Tensor) else value


def _state_at(donor: Executor | None, number: int) -> dict[str, Any]:
    """The state with which a step of a recorded run begins."""
    steps: list[Call] = [] if donor is None else [call for call in donor.trace.calls if call.is_update]
    if donor is None or number >= len(steps):
        raise UsageError("The other side's optimizer takes no such step.", actual=str(number))
    found: dict[str, Any] = dict(steps[number].arguments[1]["state"])
    with donor.running():
        for call in donor.trace.calls[: steps[number].index]:
            donor.execute(call)
            donor.release(call)
        tensors = {event.site.slot: donor.read(event) for event in steps[number].reads}
    return found | {slot: tensor.clone() for slot, tensor in tensors.items()}


__all__ = ["INTERVENTIONS", "RESTORE", "SET", "Slots", "parameters_of", "settings_of", "state_of", "stepping_otherwise"]
