"""Finished cells on disk: one JSON line each, so that an interrupted sweep goes on where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from whydiff.errors import TraceFormatError, UsageError
from whydiff.studies.sweep.findings import Cell, Size, cell_from_dict, cell_to_dict

_FORMAT = "whydiff-sweep"
_VERSION = 1


class Stored:
    """A file of finished cells.

    Args:
        path: the file; made if it does not exist.
        key: what the cells depend on besides their sizes (program, flags, versions); a file of another key is
            refused.

    Raises:
        UsageError: the file holds cells of another program or environment.
        TraceFormatError: it is no such file.
    """

    def __init__(self, path: str | os.PathLike[str], key: dict[str, Any]) -> None:
        self.path, self.key = Path(path), json.loads(json.dumps(key))
        self.cells: dict[tuple[Size, Size], Cell] = {}
        whole = self._read() if self.path.exists() and self.path.stat().st_size else 0
        if whole:
            with open(self.path, "r+b") as file:
                file.truncate(whole)  # a line that a killed process did not finish
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"format": _FORMAT, "version": _VERSION, "key": self.key}, "wb")

    def _read(self) -> int:
        """Bytes up to the end of the last complete line."""
        text = self.path.read_bytes()
        whole = text.rfind(b"\n") + 1
        lines = text[:whole].splitlines()
        if not lines:
            return 0
        head = self._line(lines[0])
        if head.get("format") != _FORMAT or head.get("version") != _VERSION:
            raise TraceFormatError(
                "This file holds no cells of a sweep.",
                where=str(self.path),
                expected=f"a file that whydiff sweep --resume wrote (version {_VERSION})",
            )
        changed = [name for name in {*self.key, *head["key"]} if head["key"].get(name) != self.key.get(name)]
        if changed:
            raise UsageError(
                "The finished cells belong to another sweep.",
                where=str(self.path),
                actual=", ".join(f"{name} was {head['key'].get(name)!r}" for name in sorted(changed)),
                expected=", ".join(f"{name} is {self.key.get(name)!r}" for name in sorted(changed)),
                next_step="give another file, or delete this one",
            )
        for line in lines[1:]:
            cell = cell_from_dict(self._line(line))
            self.cells[cell.size, cell.against] = cell
        return whole

    def _line(self, line: bytes) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError as error:
            raise TraceFormatError("A line of finished cells is damaged.", where=str(self.path)) from error
        if not isinstance(found, dict):
            raise TraceFormatError("A line of finished cells is damaged.", where=str(self.path))
        return found

    def add(self, cell: Cell) -> None:
        """Keep a finished cell; failed ones are tried again next time."""
        if cell.status != "failed":
            self.cells[cell.size, cell.against] = cell
            self._append(cell_to_dict(cell), "ab")

    def _append(self, data: dict[str, Any], mode: str) -> None:
        with open(self.path, mode) as file:
            file.write(json.dumps(data).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
