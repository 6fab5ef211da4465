"""Code to paste, with the names that the trace holds."""

from __future__ import annotations

from collections.abc import Sequence

from whydiff.explain.case import Case
from whydiff.explain.causes._state import Difference
from whydiff.explain.sides import SIDES, Side

_LONG = 50
"""Characters of a tuple that stands on one line."""


def literal(names: Sequence[str]) -> str:
    """A Python tuple of strings, one a line if they are many or long."""
    line = "(" + ", ".join(repr(name) for name in names) + ("," if len(names) == 1 else "") + ")"
    if len(names) <= 2 and len(line) <= _LONG:
        return line
    return "(\n" + "".join(f"    {name!r},\n" for name in names) + ")"


def plain_path(name: str) -> bool:
    """True if a name is module path and attribute, not an item of a list or dictionary."""
    return "[" not in name and all(part.isidentifier() or part.isdigit() for part in name.split("."))


def reachable(case: Case, bundle: Sequence[Difference]) -> list[str]:
    """Names for which torch code can be written; empty for another framework."""
    if case.candidate.framework != "torch":
        return []
    return [d.targets[0] for d in bundle if plain_path(d.targets[0]) and _is_held(case, d)]


def _is_held(case: Case, difference: Difference) -> bool:
    """Whether a module holds it: a function's own tensor is no attribute of anything."""
    return difference.candidate.is_registered or "." in difference.targets[0] or _are_modules(case, (1,))


def _are_modules(case: Case, sides: Sequence[int]) -> bool:
    return all((run := case.runs[side]) is not None and run.is_module for side in sides)


def standing_for(case: Case, *sides: Side) -> str:
    """A line of code that says what stands for functions and traces, whose modules have the names."""
    if _are_modules(case, [SIDES.index(side) for side in sides]):
        return ""
    return f"# {', '.join(sides)}: the module{'s' if len(sides) > 1 else ''} in which these names are\n"


def module_at(path: str) -> str:
    """The candidate's module at a path."""
    return f"candidate.get_submodule({path!r})" if path else "candidate"


def copy_over(case: Case, names: Sequence[str]) -> str:
    """Code that gives the candidate model the reference model's tensors."""
    if not names:
        return ""
    return standing_for(case, "candidate", "reference") + (
        f"names = {literal(names)}\n"
        "with torch.no_grad():\n"
        "    for name in names:\n"
        '        owner, _, last = name.rpartition(".")\n'
        "        ours = getattr(reference.get_submodule(owner), last)\n"
        "        getattr(candidate.get_submodule(owner), last).data = ours.detach().clone()\n"
    )


def keep_through(names: Sequence[str], narrow: str) -> str:
    """Code that casts a model but keeps some tensors as they were."""
    if not names:
        return ""
    return (
        f"names = {literal(names)}\n"
        "keep = {}\n"
        "for name in names:\n"
        '    owner, _, last = name.rpartition(".")\n'
        "    keep[name] = getattr(model.get_submodule(owner), last).detach().clone()\n"
        f"model = model.to(torch.{narrow})\n"
        "for name, value in keep.items():\n"
        '    owner, _, last = name.rpartition(".")\n'
        "    getattr(model.get_submodule(owner), last).data = value\n"
    )
