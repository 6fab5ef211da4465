"""Code to paste, with the names that the trace holds."""

from __future__ import annotations

from collections.abc import Sequence

from whydiff.explain.case import Case
from whydiff.explain.causes._state import Difference

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
    return [d.targets[0] for d in bundle if plain_path(d.targets[0])]


def copy_over(names: Sequence[str]) -> str:
    """Code that gives the candidate model the reference model's tensors."""
    if not names:
        return ""
    return (
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
