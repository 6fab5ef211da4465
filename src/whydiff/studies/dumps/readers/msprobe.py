"""msprobe (mindstudio-probe): ``dump.json`` with statistics or checksums, and ``dump_tensor_data`` with tensors.

``data`` holds a record for every call, ``Module.layers.0.ln.LayerNorm.forward.0`` or ``Functional.gelu.1.forward``, with
``input_args``, ``input_kwargs``, ``parameters`` and ``output``; each tensor has its type, dtype, shape, statistics
(``Max``, ``Min``, ``Mean``, ``Norm``) or ``md5``, and ``data_name`` where the tensor itself was saved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from whydiff.errors import TraceFormatError
from whydiff.studies.artifacts.sources import Stored
from whydiff.studies.dumps.readers.files import Skipped, counted, document, inside, named, natural, only_tensor, tensors
from whydiff.studies.dumps.records import Dump, Entry, Role

_INDEX = "dump.json"
_PARTS = {"input_kwargs": "kwargs.", "parameters": "parameters."}
_STATISTICS = ("Max", "Min", "Mean", "Norm", "md5")
_ROLES: tuple[tuple[str, Role], ...] = (
    ("input_args", "input"),
    ("input_kwargs", "input"),
    ("input", "input"),
    ("parameters", "input"),
    ("output", "output"),
)
_RANK = re.compile(r"rank\d*")
_PROCESS = re.compile(r"proc\d+")
"""A folder of a run without ranks: the number is the process's, and another one in every run."""


def recognised(place: Path) -> bool:
    """Whether msprobe wrote it."""
    return place.is_dir() and next(named(place, _INDEX), None) is not None


def read(place: Path) -> Dump:
    """The entries of every step and rank below a folder."""
    skipped: Skipped = {}
    entries: list[Entry] = []
    for index in sorted(named(place, _INDEX), key=lambda path: natural(str(path))):
        held = document(index)
        data = held.get("data") if isinstance(held, dict) else None
        if not isinstance(data, dict):
            raise TraceFormatError(
                "This is no dump.json of msprobe.", where=str(index), expected="an object with 'data'"
            )
        words = [word for word in index.parent.relative_to(place).parts if not _PROCESS.fullmatch(word)]
        rank = next((word for word in words if _RANK.fullmatch(word)), "")
        around = "/".join(word for word in words if word != rank)
        new = _entries(data, index.parent, around, len(entries), skipped)
        entries += [replace(entry, rank=rank) for entry in new]
    saved = any(entry.stored is not None for entry in entries)
    unknown = () if saved else ("only statistics were dumped: places where they agree may still differ",)
    return Dump(source=str(place), tool="msprobe", entries=tuple(entries), unknown=unknown, skipped=counted(skipped))


def _entries(data: dict[str, Any], folder: Path, around: str, begin: int, skipped: Skipped) -> Iterator[Entry]:
    order = begin
    for call, record in data.items():
        scope, op, way = _named(call)
        for key, role in _ROLES if isinstance(record, dict) else ():
            for part, held in tensors(record.get(key)):
                order += 1
                yield Entry(
                    scope=scope,
                    op=op,
                    part=_PARTS.get(key, "") + part,
                    role=role,
                    order=order,
                    around=" ".join(word for word in (around, way) if word),
                    stored=_tensor(held, folder, skipped),
                    summary={name: held[name] for name in _STATISTICS if isinstance(held.get(name), int | float | str)},
                    spec=f"{str(held.get('dtype', '')).removeprefix('torch.')}{held.get('shape')}",
                )


def _tensor(held: dict[str, Any], folder: Path, skipped: Skipped) -> Stored | None:
    name = held.get("data_name")
    if not isinstance(name, str) or not name:
        return None
    path = inside(folder / "dump_tensor_data", name)
    if path is None:
        skipped.setdefault("the tensor's file is not there", []).append(name)
        return None
    return only_tensor(path, skipped)


def _named(call: str) -> tuple[str, str, str]:
    """(module's path, class with its number, pass) of a call's name."""
    words = call.split(".")
    at = next((n for n in range(len(words) - 1, 0, -1) if words[n] in ("forward", "backward", "parameters_grad")), None)
    if at is None:
        return call, "", ""
    way = "" if words[at] == "forward" else words[at]
    number = ".".join(words[at + 1 :])
    if words[0] in ("Module", "Cell"):
        return ".".join(words[1 : at - 1]), f"{words[at - 1]}#{number or 0}", way
    name = ".".join(words[1 : at - 1]) if words[at - 1].isdigit() else ".".join(words[1:at])
    return "", f"{words[0]}.{name}#{words[at - 1] if words[at - 1].isdigit() else number or 0}", way
