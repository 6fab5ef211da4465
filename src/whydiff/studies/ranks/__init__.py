"""One run of several ranks: do they call the same collectives, and are their replicas equal? (`whydiff.check_ranks`)."""

from __future__ import annotations

from whydiff.studies.ranks.report import RanksReport
from whydiff.studies.ranks.study import check_ranks

__all__ = ["RanksReport", "check_ranks"]
