"""From a Diagnosis (or a study's result) to what people read: one reporter per file.

`answer`, `base`, `blocks`, `proof`, `view` and `words` are shared: studies and plug-ins use them too.
"""

from whydiff.registry import Contract
from whydiff.report.base import Reporter, demands

SHARED = ("answer", "base", "blocks", "proof", "view", "words")

CONTRACT = Contract(base=Reporter, classes=True, demands=demands, keys=lambda part: part.suffixes)

__all__ = ["CONTRACT", "SHARED", "Reporter"]
