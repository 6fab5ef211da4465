"""What causes of several ranks share: how they are asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from whydiff.explain.case import Case
from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.ranked import RankedExperiments
from whydiff.locate.ranked import Ranked
from whydiff.records import Cause


class RankedRule(CauseRule):
    """A cause that is asked where several ranks are compared with one process."""

    several_ranks = True

    def detect(self, case: Case) -> Iterator[Cause]:
        """What this cause says of the ranks; nothing where there are none."""
        if case.ranked is not None:
            yield from self.among(case.ranked, case.together)

    @abstractmethod
    def among(self, ranked: Ranked, experiments: RankedExperiments) -> Iterator[Cause]:
        """What this cause says of several ranks, with its experiments."""
