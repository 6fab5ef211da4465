"""Settings that differ: plain attributes of modules, grouped; and all of them set back at once."""

from __future__ import annotations

from typing import Any

from whydiff.explain.arguments import as_value
from whydiff.explain.case import Case
from whydiff.explain.causes._draws import states_restored
from whydiff.explain.causes._optimizer import put_back
from whydiff.explain.causes._state import target_name
from whydiff.explain.read_alike import given_instead
from whydiff.records import Intervention

_TEXTS = ("torch.", "<function ")
"""How what adapters record of a dtype, a device or a function begins."""
_NOT_SETTINGS = ("training", "__class__")
"""MD001 explains the first; the second is another module, not a setting."""


def scalars(case: Case) -> dict[tuple[str, Any, Any], list[str]]:
    """(attribute, reference's, candidate's) → paths, in the order of the modules; lists become tuples."""
    groups: dict[tuple[str, Any, Any], list[str]] = {}
    for path, (ours, theirs) in case.scalar_changes.items():
        attribute = path.rpartition(".")[2]
        if attribute in _NOT_SETTINGS or ours is None or theirs is None or place(ours) or place(theirs):
            continue
        one, other = as_value(ours), as_value(theirs)
        if one is not None and other is not None:
            groups.setdefault((attribute, *one, *other), []).append(path)
    return groups


def place(value: Any) -> bool:
    """A path or address says where something came from, not how it computes."""
    return isinstance(value, str) and ("/" in value or "\\" in value)


def settable(ours: Any, theirs: Any) -> bool:
    """Whether the recorded value can be set: of a dtype, a function and the like only the text is known.

    A whole number and another one (16 and 16 / 4) are of one kind.
    """
    kinds = [float if type(one) is int else type(one) for one in (ours, theirs)]
    return kinds[0] is kinds[1] and not any(isinstance(one, str) and one.startswith(_TEXTS) for one in (ours, theirs))


def enough(case: Case) -> bool:
    """Whether the outputs agree once every differing setting, mode and tensor is the reference's: then no op differs.

    What optimizers begin with, state and hyperparameters, counts among them, and the states that are drawn from.

    Tried by experiment, if anything of the kind differs and all of it can be set back.
    """
    return case.shared("settings are enough", lambda: _enough(case))


def _enough(case: Case) -> bool:
    items = [
        Intervention("set-scalar", target_name(case, path), ours)
        for (_, ours, theirs), paths in scalars(case).items()
        if settable(ours, theirs)
        for path in paths
    ]
    for path, (ours, theirs) in case.scalar_changes.items():
        if path.rpartition(".")[2] == "training" and isinstance(ours, bool) and isinstance(theirs, bool):
            items.append(Intervention("set-mode", target_name(case, path).rpartition(".")[0], ours))
    items.sort(key=lambda item: item.target.count("."))  # a mode set on a module sets those below it
    wanted = (*items, *restored(case), *put_back(case), *states_restored(case))
    return bool(wanted) and case.experiments.equal_if_told(wanted)


def restored(case: Case) -> tuple[Intervention, ...]:
    """Interventions that give the candidate the reference's tensors wherever leaves differ."""
    return tuple(given_instead(*pair) for pair in case.differing_leaves)
