"""From which lines of the user's own code some ops come: seen in one more run, never while a run is recorded."""

from __future__ import annotations

import sys
from collections.abc import Collection
from types import FrameType

from whydiff.capturing.adapters._live import called
from whydiff.capturing.adapters.torch.rows import Row
from whydiff.capturing.targets import is_library
from whydiff.records import Site


class Located(list[Row]):
    """A recorder's rows that notes of some, as they come, which line made them.

    Args:
        wanted: sites of calls.

    Attributes:
        found: site → ``file:line``, of those that the user's own code asked torch for.
    """

    def __init__(self, wanted: Collection[Site]) -> None:
        super().__init__()
        self._wanted = {(s.scope, s.op, s.phase, s.step, s.occurrence): s for s in wanted}
        self.found: dict[Site, str] = {}

    def append(self, row: Row) -> None:
        """Note where it comes from, if that is wanted."""
        _, scope, operator, phase, step, kind, *_, number = row
        op = operator[-2] if type(operator) is tuple else operator.op
        site = self._wanted.get((scope, op, phase, step, number))
        if site is not None and kind != "return" and (line := _own_line(sys._getframe(1))):
            self.found[site] = line
        super().append(row)


def _own_line(frame: FrameType | None) -> str:
    """The line that called torch, if that is the user's: no file of a library, nothing typed into a shell."""
    while frame is not None and frame.f_code is not called.__code__:  # beyond it is who asked for the comparison
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in ("whydiff", "torch") and package not in sys.stdlib_module_names:
            file = frame.f_code.co_filename
            return "" if file.startswith("<") or is_library(file) else f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
