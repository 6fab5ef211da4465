"""What a file holds, the error for a damaged one, and temporary files for what has to be unpacked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whydiff.errors import TraceFormatError
from whydiff.studies.artifacts.sources import Stored


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a file holds.

    Attributes:
        tensors: name → tensor.
        values: name → scalar (text, number, bool, None).
        skipped: name → why it cannot be compared.
        note: how it was read, where worth knowing.
        elsewhere: something that was skipped is in another file, so that equal bytes of this one do not settle it.
    """

    tensors: Mapping[str, Stored] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    elsewhere: bool = False


def damaged(path: Path, error: BaseException) -> TraceFormatError:
    """The error for a file that is not what its suffix says."""
    text = str(error).strip().splitlines()
    return TraceFormatError(
        "A file is damaged or hostile.",
        where=str(path),
        actual=f"{type(error).__name__}: {text[0] if text else ''}"[:300],
        next_step="Write it again, or leave it out of the tree.",
    )


class Spool:
    """A temporary file for unpacked bytes; it lives until `forget_spooled`.

    All of them together take at most half of the temporary folder's free space, so that an archive that
    unpacks to a thousand times its size cannot fill the disk.
    """

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="whydiff-unpacked-", buffering=0)  # noqa: SIM115
        self.path, self.size = Path(self._file.name), 0
        _spools.append(self)

    def write(self, data: bytes | memoryview) -> None:
        """Append.

        Raises:
            ValueError: the limit would be passed.
        """
        used = sum(spool.size for spool in _spools)
        if used + len(data) > (_free(self.path) + used) // 2:
            raise ValueError("unpacked, it takes more than half of the free space for temporary files")
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.size += len(data)

    def close(self) -> None:
        """Delete it."""
        self._file.close()


_spools: list[Spool] = []


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free


def forget_spooled() -> None:
    """Delete the temporary files of everything that was unpacked."""
    for spool in _spools:
        spool.close()
    _spools.clear()
