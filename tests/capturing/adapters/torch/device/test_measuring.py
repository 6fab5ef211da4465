"""The kernels of the comparison on a GPU find what the host finds, where Triton can interpret them: without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")


def test_the_kernels_find_what_the_host_finds() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("interpreted.py"))],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
