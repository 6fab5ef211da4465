"""Interventions on a live run: named changes that are carried out and undone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from whydiff.capturing.adapters.contract import Executor
from whydiff.capturing.adapters.torch.compiled import WAYS, can_be_changed, carried_out
from whydiff.capturing.adapters.torch.dtypes import from_payload
from whydiff.capturing.adapters.torch.environment import flags_now, set_flag, set_rng_state
from whydiff.capturing.adapters.torch.modes import Mode
from whydiff.capturing.adapters.torch.operators import decomposed, describe, draws
from whydiff.capturing.adapters.torch.optimizers import INTERVENTIONS, stepping_otherwise
from whydiff.capturing.adapters.torch.otherwise import knows, otherwise
from whydiff.capturing.adapters.torch.state import LiveLeaf, Roots, inputs_of, state_of
from whydiff.errors import UsageError
from whydiff.records import Intervention

_RESTORED = ("restore-state", "restore-values")
DRAW_FROM = "draw-from"
OTHER_ROWS = "other-rows"
"""Its value: the first common row, how many there are, and what the others become.

That is ``"zeros"``, ``"copies"`` of the common ones, or their ``"opposites"`` (whole numbers stay copies).
"""


def supported(intervention: Intervention, roots: Roots, tensors: Sequence[tuple[str, torch.Tensor]]) -> bool:
    """Whether `applied` knows how to carry this out on a live target."""
    if intervention.name in _RESTORED:
        return any(leaf.name == intervention.target for leaf in _state(roots))
    if intervention.name in ("set-scalar", "set-mode"):
        return _module(intervention, roots) is not None
    if intervention.name in INTERVENTIONS or intervention.name == DRAW_FROM:
        return True
    if intervention.name == OTHER_ROWS:
        return any(name == intervention.target for name, _ in tensors)
    if intervention.name == "set-flag":
        return intervention.target in flags_now()._fields
    if intervention.name == "compile-as":
        return intervention.value in WAYS and can_be_changed()
    return knows(intervention)


@contextmanager
def applied(
    interventions: Sequence[Intervention],
    roots: Roots,
    tensors: Sequence[tuple[str, torch.Tensor]],
    args: Any,
    kwargs: Any,
    target: Any,
    donor: Executor | None,
) -> Iterator[tuple[Any, Any]]:
    """Carry interventions out for the length of the block and undo them, whatever happens inside.

    Args:
        donor: executor of the other side; supplies the tensors of ``restore-state``, ``restore-values`` (cast once to
            the dtype that is held) and ``restore-input``.

    Yields:
        (args, kwargs) with inputs replaced where asked.
    """
    restoring = any(intervention.name in _RESTORED for intervention in interventions)
    state = {leaf.name: leaf for leaf in _state(roots)} if restoring else {}
    with ExitStack() as stack:
        updates = [item for item in interventions if item.name in INTERVENTIONS]
        if updates:
            stack.enter_context(stepping_otherwise(updates, donor))
        drawing = [item for item in interventions if item.name == DRAW_FROM]
        if drawing:
            stack.enter_context(Drawing(states_of(drawing, donor)))
        for intervention in interventions:
            if intervention in updates or intervention in drawing:
                continue
            if intervention.name in _RESTORED:
                leaf = state.get(intervention.target)
                if leaf is None:
                    raise _unknown(intervention)
                value = _donated(donor, intervention)
                held = value.to(leaf.tensor.dtype) if intervention.name == "restore-values" else value
                stack.enter_context(_restored(leaf, held))
            elif intervention.name == "set-scalar":
                found = _module(intervention, roots)
                if found is None:
                    raise _unknown(intervention)
                module, attribute = found
                stack.callback(setattr, module, attribute, getattr(module, attribute))
                setattr(module, attribute, intervention.value)
            elif intervention.name == "set-mode":
                found = _module(intervention, roots)
                if found is None:
                    raise _unknown(intervention)
                for child in found[0].modules():
                    stack.callback(setattr, child, "training", child.training)
                try:
                    found[0].train(bool(intervention.value))
                except NotImplementedError as error:  # an exported module's mode was settled when it was exported
                    raise _unknown(intervention) from error
            elif intervention.name == "set-flag":
                before = flags_now().as_dict()[intervention.target]
                if not set_flag(intervention.target, intervention.value):
                    raise _unknown(intervention)
                stack.callback(set_flag, intervention.target, before)
            elif intervention.name == "compile-as":
                stack.enter_context(carried_out(intervention.value))
            elif knows(intervention):
                stack.enter_context(otherwise(intervention))
            elif intervention.name == OTHER_ROWS:
                stack.enter_context(other_rows(_held(intervention, tensors, target, args, kwargs), intervention))
            elif intervention.name == "restore-input":
                _restore_input(intervention, args, kwargs, target, donor)
            else:
                raise _unknown(intervention)
        yield args, kwargs


@contextmanager
def _restored(leaf: LiveLeaf, value: torch.Tensor) -> Iterator[None]:
    """Another tensor in a state tensor's place: same object for parameters, another one for the rest.

    What an object of a library keeps is overwritten for that long: only its memory can be reached.
    """
    module, name = leaf.owner, leaf.attribute
    if isinstance(name, tuple) and type(getattr(module, name[0])) is torch.ScriptObject:
        held, before = leaf.tensor.detach(), leaf.tensor.detach().clone()
        held.copy_(value)
        try:
            yield
        finally:
            held.copy_(before)
    elif leaf.role == "parameter":
        before = leaf.tensor.data
        leaf.tensor.data = value.detach().clone()
        try:
            yield
        finally:
            leaf.tensor.data = before
    elif leaf.role == "attribute":
        attribute, key = name
        holder = getattr(module, attribute)
        if key is None:
            module.__dict__[attribute] = value.detach().clone()
        elif isinstance(holder, tuple):
            module.__dict__[attribute] = tuple(
                value.detach().clone() if index == key else item for index, item in enumerate(holder)
            )
        else:
            module.__dict__[attribute] = copied = holder.copy()
            copied[key] = value.detach().clone()
        try:
            yield
        finally:
            module.__dict__[attribute] = holder
    else:
        module._buffers[name] = value.detach().clone()
        try:
            yield
        finally:
            module._buffers[name] = leaf.tensor


def _held(
    intervention: Intervention, tensors: Sequence[tuple[str, torch.Tensor]], target: Any, args: Any, kwargs: Any
) -> torch.Tensor:
    """What the program holds, or is given, under a name."""
    known = dict(inputs_of(target, args, kwargs)) | dict(tensors)
    if intervention.target not in known:
        raise _unknown(intervention)
    return known[intervention.target]


def _state(roots: Roots) -> Iterator[LiveLeaf]:
    return (leaf for prefix, root in roots for leaf in state_of(prefix, root))


def _module(intervention: Intervention, roots: Roots) -> tuple[torch.nn.Module, str] | None:
    """The module and attribute of ``set-scalar path.attribute`` or the module of ``set-mode path``."""
    path, attribute = intervention.target, ""
    if intervention.name == "set-scalar":
        path, _, attribute = intervention.target.rpartition(".")
    for prefix, root in roots:
        if prefix and not (path == prefix or path.startswith(prefix + ".")):
            continue
        below = path[len(prefix) :].lstrip(".")
        modules = dict(root.named_modules(remove_duplicate=False))
        if below in modules and (not attribute or hasattr(modules[below], attribute)):
            return modules[below], attribute
    return None


def _donated(donor: Executor | None, intervention: Intervention) -> torch.Tensor:
    name = intervention.value or intervention.target
    leaf = None if donor is None else next((x for x in donor.trace.leaves if x.name == name), None)
    if donor is None or leaf is None:
        raise UsageError("The other side has no such state.", where=intervention.target)
    value = donor.leaf_value(leaf)
    return value  # type: ignore[no-any-return]


def _restore_input(intervention: Intervention, args: Any, kwargs: Any, target: Any, donor: Executor | None) -> None:
    value = _donated(donor, intervention)
    for path, tensor in inputs_of(target, args, kwargs):
        if path == intervention.target and tensor.shape == value.shape:
            with torch.no_grad():
                tensor.copy_(value)
            return
    raise _unknown(intervention)


def _unknown(intervention: Intervention) -> UsageError:
    return UsageError("This intervention cannot be carried out on a live run.", actual=str(intervention))


def states_of(interventions: Sequence[Intervention], donor: Executor | None) -> dict[int, torch.Tensor]:
    """Number of a draw → the state that the donor's draw of the given number begins from.

    Raises:
        UsageError: the donor draws no such number, or its state was not kept.
    """
    drawn = [] if donor is None else [call for call in donor.trace.calls if call.rng]
    found = {}
    for item in interventions:
        number = int(item.value)
        state = donor.trace.payload(drawn[number].rng) if donor is not None and number < len(drawn) else None
        if state is None:
            raise UsageError("The other side has no such draw.", actual=str(item))
        found[int(item.target)] = from_payload(state)
    return found


class Drawing(Mode):
    """Counts the draws of what runs under it as a recorder does, and sets the generator's state before some.

    Args:
        states: number of a draw → state.
    """

    def __init__(self, states: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._states, self._count = dict(states), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = describe(func)
        if operator.composite:
            with self:
                return decomposed(func, args, kwargs)
        if not operator.silent and operator.random and draws(func, args, kwargs):
            state = self._states.get(self._count)
            self._count += 1
            if state is not None:
                given = next((item for item in (*args, *kwargs.values()) if isinstance(item, torch.Generator)), None)
                device = next((a.device for a in args if isinstance(a, torch.Tensor)), kwargs.get("device"))
                set_rng_state(state, given, device)
        return func(*args, **kwargs)


@contextmanager
def other_rows(tensor: torch.Tensor, intervention: Intervention) -> Iterator[None]:
    """The rows of a tensor that are not common ones are others for the length of the block."""
    start, count, how = intervention.value
    held = tensor.detach()
    with torch.inference_mode(held.is_inference()), torch.no_grad():
        before = held.clone()
        common = slice(start, start + count)
        changed = before[start + (torch.arange(len(before), device=before.device) - start) % count]
        if how == "zeros":
            changed = torch.zeros_like(before)
        elif how == "opposites" and (before.is_floating_point() or before.is_complex()):
            changed = -changed
        changed[common] = before[common]
        held.copy_(changed)
    try:
        yield
    finally:
        with torch.inference_mode(held.is_inference()), torch.no_grad():
            held.copy_(before)
