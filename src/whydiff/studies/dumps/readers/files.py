"""What the readers share: tensors of files, JSON, and names in the order of people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whydiff.capturing.store.tensor_files import DAMAGE
from whydiff.errors import TraceFormatError, WhydiffError
from whydiff.studies.artifacts.content import Content, damaged
from whydiff.studies.artifacts.readers import MAX_TEXT, reader_for
from whydiff.studies.artifacts.sources import Stored

TENSORS = frozenset({".pt", ".pth", ".npy", ".npz", ".safetensors"})
MAX_JSON = 8 * MAX_TEXT
"""Largest index of a dump, in bytes."""
Skipped = dict[str, list[str]]


def content(path: Path, skipped: Skipped) -> Content:
    """What a tensor file holds; one that cannot be read is counted and empty."""
    reader = reader_for(path) if path.suffix.lower() in TENSORS else None
    if reader is None:
        skipped.setdefault("no tensor file", []).append(path.name)
        return Content()
    try:
        found = reader(path)
    except (WhydiffError, *DAMAGE) as error:
        reason = error.what if isinstance(error, WhydiffError) else str(error)
        actual = error.actual if isinstance(error, WhydiffError) else ""
        skipped.setdefault(f"{reason} {actual}".strip()[:200], []).append(path.name)
        return Content()
    for name, why in found.skipped.items():
        skipped.setdefault(why, []).append(f"{path.name}: {name}")
    return found


def only_tensor(path: Path, skipped: Skipped) -> Stored | None:
    """The one tensor of a file."""
    found = content(path, skipped).tensors
    return next(iter(found.values())) if len(found) == 1 else None


def inside(folder: Path, name: str) -> Path | None:
    """A regular file below a folder, by the name that an index gives it; None: it is elsewhere, or not there."""
    path = folder / name
    right = path.is_file() and folder.resolve() in path.resolve().parents
    return path if right else None


def document(path: Path) -> Any:
    """A JSON file.

    Raises:
        TraceFormatError: too long, or no JSON.
    """
    if path.stat().st_size > MAX_JSON:
        raise TraceFormatError(
            "The index of a dump is too long.", where=str(path), expected=f"{MAX_JSON} bytes at most"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise damaged(path, error) from error


def tensors(value: Any, part: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of tensors (they have a shape) in nested lists and dicts, with their places."""
    if isinstance(value, dict) and "shape" in value:
        yield part or "0", value
    elif isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from tensors(item, f"{part}.{key}" if part else str(key))


def natural(name: str) -> list[Any]:
    """A key that sorts ``layer.10`` after ``layer.9``."""
    return [(1, int(word), "") if word.isdigit() else (0, 0, word) for word in re.split(r"(\d+)", name)]


def counted(skipped: Skipped) -> dict[str, tuple[str, ...]]:
    """The skipped names as a record holds them."""
    return {reason: tuple(names) for reason, names in skipped.items()}
