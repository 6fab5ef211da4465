"""Real models with a real difference, for `whydiff demo`, the tests and the documentation.

A demo is a file with ``build()`` → (reference, candidate, inputs) and ``run(progress)`` → `Diagnosis`, or a
study's report; either has ``print`` and ``to_dict``.
Weights come from installed Python packages, never from a model hub.
"""

from __future__ import annotations

import importlib
from typing import Any

from whydiff.cli._progress import Progress, silent
from whydiff.errors import MissingPackageError, UsageError

NAMES = ("smollm", "megatron", "gemma")
"""Names that `run` accepts; the first is what `whydiff demo` runs without a name."""


def run(name: str = NAMES[0], progress: Progress = silent) -> Any:
    """Build a demo's two models and compare them.

    Args:
        name: one of `NAMES`.
        progress: called with (stage, done, total).

    Raises:
        UsageError: no demo has this name.
        MissingPackageError: a package that it needs is not installed.
    """
    if name not in NAMES:
        raise UsageError("No demo has this name.", actual=name, expected=", ".join(NAMES))
    try:
        from whydiff.garbage import not_collecting

        with not_collecting():  # a million objects that imports and models make, and hardly any garbage
            return importlib.import_module(f"whydiff.cli.demos.{name}").run(progress)
    except ModuleNotFoundError as error:
        raise MissingPackageError.of(error, extra="demo") from error
