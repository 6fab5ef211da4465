"""Two trees of index or checkpoint files: what differs, does it matter, and why did a code change.

`compare_artifacts` compares them file by file and number by number with little memory.

What is named here is imported when it is asked for: the processes that read one foreign file each need none of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whydiff.studies.artifacts.records import ArtifactFile, ChangedCode, CodeExplanation, Item
    from whydiff.studies.artifacts.report import ArtifactComparison
    from whydiff.studies.artifacts.study import compare_artifacts

__all__ = ["ArtifactComparison", "ArtifactFile", "ChangedCode", "CodeExplanation", "Item", "compare_artifacts"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = {"ArtifactComparison": "report", "compare_artifacts": "study"}.get(name, "records")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
