"""Where examples keep their traces."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def new_folder() -> Path:
    """An empty folder that is removed when Python ends."""
    folder = Path(tempfile.mkdtemp(prefix="whydiff-example-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
