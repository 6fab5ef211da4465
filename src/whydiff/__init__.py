"""Two runs of the same model give different numbers: why, does it matter, and how do I make it stop?

Importing this package does nothing but define names: no framework, no numpy, no terminal library is loaded
before a name is used (PEP 562), nothing is patched and no clock is read.

    import whydiff
    diagnosis = whydiff.compare(reference, candidate, input_ids)
    diagnosis.print()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from whydiff.garbage import not_collecting

if TYPE_CHECKING:
    from whydiff.capturing.record import capture
    from whydiff.capturing.store import open_trace as open
    from whydiff.errors import (
        CaptureError,
        Interrupted,
        MissingPackageError,
        PayloadError,
        PluginError,
        ReplayError,
        TargetError,
        TraceError,
        TraceFormatError,
        TraceVersionError,
        UnsupportedError,
        UsageError,
        WhydiffError,
    )
    from whydiff.pipeline import Options, compare
    from whydiff.records import Diagnosis, Verdict
    from whydiff.studies.artifacts import compare_artifacts
    from whydiff.studies.decoding.study import compare_decoding
    from whydiff.studies.dumps.study import compare_dumps
    from whydiff.studies.formulas import compare_formulas
    from whydiff.studies.logprobs.study import compare_logprobs
    from whydiff.studies.port import check_port
    from whydiff.studies.ranging import range_audit
    from whydiff.studies.ranks import check_ranks
    from whydiff.studies.same import Differs, assert_same
    from whydiff.studies.smallest import smallest_graph
    from whydiff.studies.sweep.guard import assert_batch_invariant, batch_invariant
    from whydiff.studies.sweep.study import sweep
    from whydiff.studies.training import TrainingOptions, compare_training

__version__ = "0.1.0"

__all__ = [
    "CaptureError",
    "Diagnosis",
    "Differs",
    "Interrupted",
    "MissingPackageError",
    "Options",
    "PayloadError",
    "PluginError",
    "ReplayError",
    "TargetError",
    "TraceError",
    "TraceFormatError",
    "TraceVersionError",
    "TrainingOptions",
    "UnsupportedError",
    "UsageError",
    "Verdict",
    "WhydiffError",
    "__version__",
    "assert_batch_invariant",
    "assert_same",
    "batch_invariant",
    "capture",
    "check_port",
    "check_ranks",
    "compare",
    "compare_artifacts",
    "compare_decoding",
    "compare_dumps",
    "compare_formulas",
    "compare_logprobs",
    "compare_training",
    "open",
    "range_audit",
    "smallest_graph",
    "sweep",
]

_HOMES = {
    "assert_same": ("whydiff.studies.same", "assert_same"),
    "Differs": ("whydiff.studies.same", "Differs"),
    "assert_batch_invariant": ("whydiff.studies.sweep.guard", "assert_batch_invariant"),
    "batch_invariant": ("whydiff.studies.sweep.guard", "batch_invariant"),
    "sweep": ("whydiff.studies.sweep.study", "sweep"),
    "capture": ("whydiff.capturing.record", "capture"),
    "check_ranks": ("whydiff.studies.ranks", "check_ranks"),
    "check_port": ("whydiff.studies.port", "check_port"),
    "Options": ("whydiff.pipeline", "Options"),
    "compare": ("whydiff.pipeline", "compare"),
    "compare_artifacts": ("whydiff.studies.artifacts.study", "compare_artifacts"),
    "compare_decoding": ("whydiff.studies.decoding.study", "compare_decoding"),
    "compare_dumps": ("whydiff.studies.dumps.study", "compare_dumps"),
    "compare_formulas": ("whydiff.studies.formulas", "compare_formulas"),
    "compare_logprobs": ("whydiff.studies.logprobs.study", "compare_logprobs"),
    "smallest_graph": ("whydiff.studies.smallest", "smallest_graph"),
    "range_audit": ("whydiff.studies.ranging", "range_audit"),
    "compare_training": ("whydiff.studies.training", "compare_training"),
    "TrainingOptions": ("whydiff.studies.training", "TrainingOptions"),
    "open": ("whydiff.capturing.store", "open_trace"),
    "Diagnosis": ("whydiff.records", "Diagnosis"),
    "Verdict": ("whydiff.records", "Verdict"),
}


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, attribute = _HOMES.get(name, ("whydiff.errors", name))
    with not_collecting():
        value = getattr(importlib.import_module(home), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
