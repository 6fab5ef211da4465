"""`python -m tests.scores.zoo [--quick] [KIND …]`: every kind of program, alone and under six captures (two of them)."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from tests.scores.zoo.run import QUICK, WAYS, score

if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--quick"]
    sys.exit(min(score(names, QUICK if "--quick" in sys.argv else WAYS), 1))
