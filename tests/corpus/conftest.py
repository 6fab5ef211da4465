"""Lets this folder be imported as ``tests.corpus``, as ``python -m tests.corpus`` does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
