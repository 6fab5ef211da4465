"""Range audit: what overflows or vanishes, where first, and whether the remedy helps (`whydiff.range_audit`)."""

from __future__ import annotations

from whydiff.studies.ranging.report import RangeReport
from whydiff.studies.ranging.study import range_audit

__all__ = ["RangeReport", "range_audit"]
