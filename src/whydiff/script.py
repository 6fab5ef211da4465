"""Run an unmodified Python script with a capture active: ``python -m whydiff.script``.

Arguments: OUT LEVEL PAYLOADS SCRIPT [ARG …], where PAYLOADS is ``all``, ``none`` or comma-separated globs.
The script sees its own ``sys.argv``, ``__main__`` and import path; its exit status becomes this process's.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from whydiff.capturing import capture
from whydiff.errors import WhydiffError


def main(arguments: list[str]) -> int:
    """Capture a script; returns its exit status (2: the capture itself could not begin)."""
    out, level, payloads, script, *rest = arguments
    chosen = payloads if payloads in ("all", "none") else payloads.split(",")
    sys.argv = [script, *rest]
    sys.path[0] = str(Path(script).resolve().parent)
    try:
        with capture(out, payloads=chosen, level=level):  # type: ignore[arg-type]
            runpy.run_path(script, run_name="__main__")
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
            return 1
        return leaving.code or 0
    except WhydiffError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
