"""``python -m whydiff``, and the ``whydiff`` command; Ctrl-C is answered from the first import on."""

import atexit
import os
import sys
from typing import NoReturn

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def main() -> None:
    """Entry point of the ``whydiff`` command."""
    try:
        from whydiff.cli import main as command

        command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _leave()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _leave()
        raise


def _leave() -> NoReturn:
    """End at once: to take a framework's modules apart takes a second, for which whoever pressed Ctrl-C would wait."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
