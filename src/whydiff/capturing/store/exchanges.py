"""Collectives that began, in a file of their own, each written before it begins: one that never ends is known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from whydiff.capturing.store.decode import IndexDecoder, read_lines
from whydiff.capturing.store.encode import IndexEncoder
from whydiff.capturing.store.layout import EXCHANGES, read_text_file, regular_file
from whydiff.records import Call, Collective


class ExchangeFile:
    """Writes calls of collectives, without values, as lines like those of the index.

    Args:
        root: directory of the trace.
    """

    def __init__(self, root: Path) -> None:
        self._path, self._encoder = root / EXCHANGES, IndexEncoder()

    def add(self, call: Call) -> None:
        """Write one; it is safe from then on whatever becomes of the process."""
        with FileIO(self._path, "a") as file:
            file.write(self._encoder.calls([call]))


def read_exchanges(root: Path, calls: Sequence[Call]) -> tuple[Call, ...]:
    """Every collective that began, in order; of a trace that has no such file, those among its calls.

    Raises:
        TraceFormatError: the file is damaged.
    """
    if not os.path.lexists(root / EXCHANGES):
        return tuple(call for call in calls if Collective.of(call.arguments) is not None)
    file = regular_file(root, EXCHANGES)
    index = IndexDecoder()
    read_lines(index, read_text_file(file), file)
    return tuple(index.calls)
