"""What the readers share: tensors of files, JSON, and names in the order of people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from whydiff.capturing.store import strict
from whydiff.capturing.store.nested import MAX_DEPTH, MAX_NAME
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
    long = [name for name in found.tensors if len(name) > MAX_NAME]
    told = {**found.skipped, **dict.fromkeys(long, f"its name is longer than {MAX_NAME} characters")}
    for name, why in told.items():
        skipped.setdefault(why, []).append(f"{path.name}: {name[:MAX_NAME]}")
    return replace(found, tensors={name: held for name, held in found.tensors.items() if name not in told})


def only_tensor(path: Path, skipped: Skipped) -> Stored | None:
    """The one tensor of a file."""
    found = content(path, skipped).tensors
    return next(iter(found.values())) if len(found) == 1 else None


def inside(folder: Path, name: str) -> Path | None:
    """A regular file below a folder, by the name that an index gives it; None: it is elsewhere, or not there."""
    path = folder / name
    try:
        right = path.is_file() and folder.resolve() in path.resolve().parents
    except (OSError, ValueError):  # no system has files of that name
        return None
    return path if right else None


def named(place: Path, pattern: str) -> Iterator[Path]:
    """Regular files below a folder whose names fit a pattern; opening a pipe would wait for somebody who writes."""
    return (path for path in place.rglob(pattern) if path.is_file())


def document(path: Path) -> Any:
    """A JSON file.

    Raises:
        TraceFormatError: too long, no JSON, or an object has a key twice.
    """
    if path.stat().st_size > MAX_JSON:
        raise TraceFormatError(
            "The index of a dump is too long.", where=str(path), expected=f"{MAX_JSON} bytes at most"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=strict.once)
    except (ValueError, RecursionError, OSError) as error:
        raise damaged(path, error) from error


def tensors(value: Any, part: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of tensors (they have a shape) in nested lists and dicts, with their places.

    Raises:
        TraceFormatError: nested too deeply, or a name is too long.
    """
    if isinstance(value, dict) and "shape" in value:
        yield part or "0", value
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH or len(part) > MAX_NAME:
            raise TraceFormatError(
                "The index of a dump is damaged.",
                where=part[:80],
                expected=f"{MAX_DEPTH} levels and names of {MAX_NAME} characters at most",
            )
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from tensors(item, f"{part}.{key}" if part else str(key), depth + 1)


def natural(name: str) -> list[Any]:
    """A key that sorts ``layer.10`` after ``layer.9``, whatever the number's length."""
    return [(1, len(bare), bare) if (bare := _number(word)) else (0, 0, word) for word in re.split(r"([0-9]+)", name)]


def _number(word: str) -> str:
    """A whole number's digits without leading zeros; empty for anything else."""
    return word.lstrip("0") or "0" if word.isascii() and word.isdigit() else ""


def counted(skipped: Skipped) -> dict[str, tuple[str, ...]]:
    """The skipped names as a record holds them."""
    return {reason: tuple(names) for reason, names in skipped.items()}
