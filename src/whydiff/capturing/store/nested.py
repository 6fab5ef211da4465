"""Nested containers (a JSON document, a checkpoint) as named leaves, within limits that bound time and memory.

A few bytes can describe far more than they are: a pickle that names one list ten times, in ten lists, … has
10^depth leaves, and one long key above a million entries makes a million long names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_DEPTH = 200
"""Deepest nesting that is looked into."""
MAX_NODES = 1 << 22
"""Containers and leaves that are visited."""
MAX_NAME = 4096
"""Characters of one name."""
MAX_NAMES = 1 << 26
"""Characters of all names together."""
WHOLE = "(all)"
"""Name of a leaf that is in no container."""

Entries = Callable[[Any], Iterable[tuple[Any, Any]] | None]


def named_leaves(value: Any, entries: Entries, most: int = MAX_NODES) -> Iterator[tuple[str, Any]]:
    """Every leaf under its path, such as ``model.layers[0].weight``, in order.

    Args:
        value: a container or a leaf.
        entries: container → its (key, item) pairs, an integer key being a position in a list; None for a leaf.
        most: containers and leaves that what was read can have written out: its length in bytes, say, since each takes
            at least one. A few that name each other again and again are more.

    Raises:
        ValueError: a limit of this module is exceeded.
    """
    inside = entries(value)
    if inside is None:
        yield WHOLE, value
        return
    nodes = characters = 0
    taken: dict[str, int] = {}
    stack = [("", iter(inside))]
    while stack:
        path, pairs = stack[-1]
        pair = next(pairs, None)
        if pair is None:
            stack.pop()
            continue
        name, item = _joined(path, pair[0]), pair[1]
        nodes, characters = nodes + 1, characters + len(name)
        if nodes > min(most, MAX_NODES) or characters > MAX_NAMES:
            limits = f"{min(most, MAX_NODES)} entries, or {MAX_NAMES} characters of names"
            raise ValueError(f"it unfolds to more than {limits}")
        inside = entries(item)
        if inside is None:
            yield _apart(name or WHOLE, taken), item
        elif len(stack) >= MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        else:
            stack.append((name, iter(inside)))


def _apart(name: str, taken: dict[str, int]) -> str:
    """A name that no other leaf has: keys ``0`` and ``"0"``, or ``a.b`` and ``b`` in ``a``, make the same one."""
    number = taken[name] = taken.get(name, 0) + 1
    return name if number == 1 else _apart(f"{name} ({number})", taken)


def _joined(path: str, key: Any) -> str:
    if type(key) is int:
        return f"{path}[{key}]"
    text = key if isinstance(key, str) else str(key)
    if len(path) + len(text) >= MAX_NAME:
        raise ValueError(f"a name is longer than {MAX_NAME} characters: {path:.20}.{text:.20}…")
    return f"{path}.{text}" if path else text
