"""What must hold of every comparison of what somebody changed on purpose."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import process_state

from whydiff.errors import harmless

SECONDS, MEMORY = 10.0, 1 << 30
"""Of the processor, and bytes beyond what is loaded, that one comparison may take."""


def everything(found: Any) -> Iterator[str]:
    """All that is shown of a result."""
    yield json.dumps(found.to_dict(), ensure_ascii=False)
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        found.print(color="never", verbose=True)
    yield screen.getvalue()


def judged(said: str, seconds: float, peak: int) -> Iterator[str]:
    """What is wrong with what was said, and with what it took."""
    if said != harmless(said):
        yield "a control character"
    if "does no such thing" in said:
        yield said[max(0, said.index("does no such thing") - 80) :][:200]
    if seconds > SECONDS:
        yield f"{seconds:.1f} s of the processor"
    if peak > MEMORY + _loaded():
        yield f"{(peak - _loaded()) >> 20} MiB"


def _loaded() -> int:
    """Bytes of this process, which a fork begins with."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def state() -> dict[str, Any]:
    """This process, in words that compare."""
    return {**process_state.of_python(), **process_state.of_torch()}
