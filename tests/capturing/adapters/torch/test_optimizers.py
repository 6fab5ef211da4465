"""What an optimizer keeps, sorted by name: found once, and again when there is more of it, less, or of another kind."""

from __future__ import annotations

from typing import Any

import torch

from whydiff.capturing.adapters.torch.optimizers import Slots, state_of


def told(optimizer: torch.optim.Optimizer, slots: Slots) -> dict[str, tuple[list[int], list[Any]]]:
    """Name → identities of tensors, and plain numbers."""
    tensors, numbers = slots.of(optimizer)
    return {
        name: ([id(tensors[i]) for i in there], [numbers[i] for i in plain])
        for name, (there, plain) in slots.names.items()
    }


def wanted(optimizer: torch.optim.Optimizer) -> dict[str, tuple[list[int], list[Any]]]:
    found: dict[str, tuple[list[int], list[Any]]] = {}
    for slot, value in state_of(optimizer):
        tensors, numbers = found.setdefault(slot.partition(".")[2], ([], []))
        if isinstance(value, torch.Tensor):
            tensors.append(id(value))
        else:
            numbers.append(value)
    return found


def test_state_that_is_made_grows_changes_its_kind_and_goes_is_seen_at_once() -> None:
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer, slots = torch.optim.Adam(weights[:2]), Slots()
    assert told(optimizer, slots) == wanted(optimizer) == {}
    for weight in weights:
        weight.grad = torch.ones(2)
    optimizer.step()
    assert told(optimizer, slots) == wanted(optimizer)
    assert sorted(slots.names) == ["exp_avg", "exp_avg_sq", "step"]
    names = slots.names
    assert told(optimizer, slots) == wanted(optimizer) and slots.names is names, "sorted out once"
    optimizer.add_param_group({"params": [weights[2]]})
    optimizer.step()
    assert told(optimizer, slots) == wanted(optimizer)
    state = optimizer.state[weights[0]]
    state["exp_avg"] = torch.zeros(2)  # another tensor of the same name
    assert told(optimizer, slots) == wanted(optimizer)
    state["step"] = 7  # a plain number now
    assert told(optimizer, slots) == wanted(optimizer)
    state["step"] = 8
    assert told(optimizer, slots)["step"][1] == [8]
    state["more"] = [torch.ones(1)]  # none of either
    assert told(optimizer, slots) == wanted(optimizer)
    state["other"] = state.pop("exp_avg_sq")
    assert told(optimizer, slots) == wanted(optimizer)
    optimizer.state.clear()
    assert told(optimizer, slots) == wanted(optimizer) == {}
    assert slots.of(None) == ([], [])
