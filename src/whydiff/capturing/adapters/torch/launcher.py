"""Run torchrun with a capture in every process that it starts: ``python -m whydiff.capturing.adapters.torch.launcher``.

Arguments: OUT LEVEL PAYLOADS BYTES, then those of ``torchrun``, which reads them itself.
"""

from __future__ import annotations

import sys

from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.run import parse_args, run

CHILD = "whydiff.capturing.script"
"""Runs a script, or ``-m`` and a module, with a capture active."""


@record
def main(arguments: list[str]) -> None:
    """Launch what torchrun would launch, each process under `whydiff.capturing.script`."""
    capture, rest = arguments[:4], arguments[4:]
    asked = parse_args(rest)
    if asked.no_python:
        sys.exit("whydiff capture: only Python programs can be captured; leave --no-python out.")
    program = ["-m", asked.training_script] if asked.module else [asked.training_script]
    asked.training_script_args = [*capture, *program, *asked.training_script_args]
    asked.training_script, asked.module = CHILD, True
    run(asked)


if __name__ == "__main__":
    main(sys.argv[1:])
