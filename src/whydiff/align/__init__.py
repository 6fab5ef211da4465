"""Which calls of two traces correspond. See ``docs/explanation/alignment.md``.

`align` runs ordered passes (`whydiff.align.passes`); `explain` counts what they left unpaired.
"""

from whydiff.align.explain import explain
from whydiff.align.passes import align

__all__ = ["align", "explain"]
