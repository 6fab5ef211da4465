"""The scores' own commands, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def done(*command: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own: a forked child of one in which JAX has threads can wait for ever."""
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True, timeout=600)
