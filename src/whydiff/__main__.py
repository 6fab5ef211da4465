"""``python -m whydiff``, and the ``whydiff`` command; Ctrl-C is answered from the first import on."""

import atexit
import os
import sys
import threading

from whydiff.errors import INTERRUPTED
from whydiff.garbage import write_out


def main() -> None:
    """Entry point of the ``whydiff`` command."""
    try:
        from whydiff.cli import main as command

        command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _leave()
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _leave()
        raise


def _leave() -> None:
    """End at once: to take a framework's modules apart takes a second, for which whoever pressed Ctrl-C would wait.

    What Python does besides is done: exit functions run, and what the user's program has written reaches its files. Where
    it left threads that Python waits for, this returns, and Python ends as always.
    """
    if any(one is not threading.main_thread() and not one.daemon for one in threading.enumerate()):
        return
    atexit._run_exitfuncs()
    write_out()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
