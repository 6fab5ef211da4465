"""Which calls of two traces correspond. See ``docs/explanation/alignment.md``.

`align` runs ordered passes (`whydiff.pair.align.passes`); `explain` counts what they left unpaired.
"""

from whydiff.pair.align.explain import explain
from whydiff.pair.align.passes import align

__all__ = ["align", "explain"]
