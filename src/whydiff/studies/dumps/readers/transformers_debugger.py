"""transformers' model debugger: a tree of calls in JSON, with printed tensors or with safetensors files beside it.

A node has ``module_path``, ``inputs``, ``outputs`` (of innermost modules and of the whole model only) and ``children``; a
tensor has ``shape``, ``dtype``, ``value`` (printed lines, or ``./NAME.safetensors``), and four printed statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whydiff.errors import TraceFormatError
from whydiff.studies.dumps.readers.files import Skipped, counted, document, inside, only_tensor, tensors
from whydiff.studies.dumps.records import Dump, Entry, Role

_FULL, _SUMMARY = "_debug_tree_FULL_TENSORS.json", "_debug_tree_SUMMARY.json"
_STATISTICS = ("mean", "std", "min", "max")
_DEEPEST = 200
_ROLES: tuple[tuple[str, Role], ...] = (("inputs", "input"), ("outputs", "output"))


def recognised(place: Path) -> bool:
    """Whether the debugger wrote it."""
    return _index(place) is not None


def read(place: Path) -> Dump:
    """The entries of a tree."""
    index = _index(place)
    assert index is not None
    skipped: Skipped = {}
    tree = document(index)
    if not isinstance(tree, dict):
        raise TraceFormatError("This is no tree of calls.", where=str(index), expected="an object with 'module_path'")
    entries = tuple(_entries(tree, index.parent, skipped))
    unknown = ["layers between the first and the last are left out by default", "modules with children have no output"]
    if not any(entry.stored is not None for entry in entries):
        unknown.append(
            "tensors are printed with a few digits, long ones with a few numbers: agreement is of what is printed"
        )
    return Dump(
        source=str(index),
        tool="transformers' model debugger",
        entries=entries,
        unknown=tuple(unknown),
        skipped=counted(skipped),
    )


def _index(place: Path) -> Path | None:
    if place.is_file():
        return place if place.name.endswith((_FULL, _SUMMARY)) else None
    found = (path for end in (_FULL, _SUMMARY) for path in sorted(place.glob(f"*{end}")))
    return next((path for path in found if path.is_file()), None)


def _entries(tree: dict[str, Any], folder: Path, skipped: Skipped) -> Iterator[Entry]:
    """Inputs when a module is entered, outputs when it is left."""
    order = 0
    calls: dict[str, int] = {}
    stack: list[tuple[Any, int, str, bool]] = [(tree, 0, "", True)]
    while stack:
        node, depth, op, enters = stack.pop()
        children: Any = node.get("children") or [] if isinstance(node, dict) else None
        if depth > _DEEPEST or not isinstance(children, list):
            raise TraceFormatError(
                "A tree of calls is damaged.", where=str(folder), expected=f"{_DEEPEST} levels at most"
            )
        path = str(node.get("module_path", "")).removesuffix(" (top-level)")
        scope = path.partition(".")[2]
        if enters:
            calls[path] = calls.get(path, -1) + 1
            op = f"#{calls[path]}" if calls[path] else ""
            stack.append((node, depth, op, False))
            stack += [(child, depth + 1, "", True) for child in reversed(children)]
        key, role = _ROLES[not enters]
        for part, held in tensors(node.get(key)):
            order += 1
            file = held.get("value")
            name = inside(folder, file) if isinstance(file, str) else None
            yield Entry(
                scope=scope,
                op=op,
                part=part,
                role=role,
                order=order,
                stored=None if name is None else only_tensor(name, skipped),
                summary=_printed(held),
                spec=f"{str(held.get('dtype', '')).removeprefix('torch.')} {held.get('shape')}",
            )


def _printed(held: dict[str, Any]) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for name in _STATISTICS:
        text = str(held.get(name, ""))
        digits = text.partition("(")[2].partition(")")[0].partition(",")[0]
        try:
            found[name] = float(digits)
        except ValueError:
            continue
    lines = held.get("value")
    if isinstance(lines, list):
        found["printed"] = "\n".join(map(str, lines))
    return found
