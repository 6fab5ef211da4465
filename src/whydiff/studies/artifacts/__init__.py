"""Two trees of index or checkpoint files: what differs, does it matter, and why did a code change.

`compare_artifacts` compares them file by file and number by number with little memory.
"""

from whydiff.studies.artifacts.records import ArtifactFile, ChangedCode, CodeExplanation, Item
from whydiff.studies.artifacts.report import ArtifactComparison
from whydiff.studies.artifacts.study import compare_artifacts

__all__ = ["ArtifactComparison", "ArtifactFile", "ChangedCode", "CodeExplanation", "Item", "compare_artifacts"]
