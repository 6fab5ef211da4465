"""Which tool wrote a dump, and its entries: one file per tool."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from whydiff.errors import UsageError
from whydiff.studies.dumps.readers import debug_mode, folder, msprobe, sglang, transformers_debugger
from whydiff.studies.dumps.records import Dump

_READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Dump]], ...] = (
    (msprobe.recognised, msprobe.read),
    (transformers_debugger.recognised, transformers_debugger.read),
    (sglang.recognised, sglang.read),
    (debug_mode.recognised, debug_mode.read),
    (folder.recognised, folder.read),
)


def read_dump(path: str | os.PathLike[str]) -> Dump:
    """The entries of a dump.

    Raises:
        UsageError: nothing is there, or no tool that is known wrote it.
        TraceFormatError: damaged or hostile.
    """
    place = Path(path)
    if not place.exists():
        raise UsageError("There is no such folder or file.", where=str(place), expected="a dump of another tool")
    for recognised, read in _READERS:
        if recognised(place):
            return read(place)
    raise UsageError(
        "No tool that is known wrote this.",
        where=str(place),
        expected="a folder of msprobe (dump.json), SGLang's dumper, transformers' model debugger, or of .pt, .npy and "
        ".safetensors files named by module; or a text file with what torch's DebugMode.debug_string() gives",
    )
