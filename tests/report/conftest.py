"""Lets the tests of this folder import `golden` and `plain` whatever way pytest was started."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
