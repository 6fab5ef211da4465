"""torch's DebugMode: the text of ``debug_string()``, one call a line, indented by depth.

A line is ``[nn.Mod] Sequential.0``, an operator such as ``aten::t(t: f32[8, 4])  ->  t: f32[4, 8]``, or another that is left
out; with ``log_tensor_hashes`` it ends in ``# {'input_hash': …, 'hash': …}``: sums of absolute values, blind to sign and order.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whydiff.studies.dumps.readers.files import MAX_JSON
from whydiff.studies.dumps.records import Dump, Entry, Role

_LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w.]+(?:::[\w.]+)?)\((?P<arguments>.*)$")
_MODULE = re.compile(r"^(?P<indent> *)\[nn\.Mod\] (?P<name>\S+)$")
_TYPE = re.compile(r"t(?:\$\d+)?: (?P<spec>\w+\[[\d, ]*\])")
_LOG = "  # {"
_ENDS = frozenset({".txt", ".log", ".debugmode"})
_HEAD = 1 << 16


def recognised(place: Path) -> bool:
    """Whether the text is DebugMode's."""
    if not place.is_file() or place.suffix.lower() not in _ENDS or place.stat().st_size > MAX_JSON:
        return False
    with open(place, encoding="utf-8", errors="replace") as file:
        return any("aten::" in line or "[nn.Mod]" in line for line in file.read(_HEAD).splitlines())


def read(place: Path) -> Dump:
    """The operators' inputs and outputs, under the modules that they ran in."""
    entries = tuple(_entries(place.read_text(encoding="utf-8", errors="replace").splitlines()))
    hashed = any(entry.summary for entry in entries)
    unknown = (
        "hashes are sums of absolute values: blind to signs and to order, and rounded"
        if hashed
        else "no tensor is in the log, only the operators: record hashes with DebugMode.log_tensor_hashes()",
    )
    return Dump(source=str(place), tool="torch's DebugMode", entries=entries, unknown=unknown)


def _entries(lines: list[str]) -> Iterator[Entry]:
    modules: list[tuple[int, str]] = []
    calls: dict[tuple[str, str], int] = {}
    order = 0
    for line in lines:
        entered = _MODULE.match(line)
        found = None if entered else _LINE.match(line)
        if entered is None and found is None:
            continue
        depth = len((entered or found)["indent"])  # type: ignore[index]
        while modules and modules[-1][0] >= depth:
            modules.pop()
        if entered:
            modules.append((depth, entered["name"]))
            continue
        assert found is not None
        scope = modules[-1][1].partition(".")[2] if modules else ""
        key = scope, found["name"]
        calls[key] = calls.get(key, -1) + 1
        for role, part, spec, value in _values(found["arguments"]):
            order += 1
            yield Entry(
                scope=scope,
                op=f"{found['name']}#{calls[key]}",
                part=part,
                role=role,
                order=order,
                summary={} if value is None else {"hash": value},
                spec=spec,
            )


def _values(text: str) -> Iterator[tuple[Role, str, str, float | str | None]]:
    """(role, part, dtype and shape, hash) of every tensor of a call."""
    before, log, after = text.partition(_LOG)
    hashes: dict[str, Any] = {}
    if log and after.endswith("}"):
        text = before
        try:
            found = ast.literal_eval(re.sub(r"\b(nan|-?inf)\b", r"'\1'", f"{{{after}"))
            hashes = found if isinstance(found, dict) else {}
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            hashes = {}
    inputs, _, outputs = text.partition("  ->  ")
    sides: tuple[tuple[Role, str, Any], ...] = (
        ("input", inputs, hashes.get("input_hash")),
        ("output", outputs, hashes.get("hash")),
    )
    for role, side, held in sides:
        specs = [one["spec"] for one in _TYPE.finditer(side)]
        numbers = [one for one in _leaves(held) if one is not None]
        exact = len(numbers) == len(specs)
        for n, spec in enumerate(specs):
            yield role, str(n), spec, numbers[n] if exact else None


def _leaves(value: Any) -> Iterator[float | str | None]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif value is None or isinstance(value, int | float | str):
        yield value
