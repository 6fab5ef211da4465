"""What the corpus scores today: every case, every part, and in all. A change in either direction is written down here.

A case that is not named in `MISSES` is judged right in everything: the verdict is one of the right ones, the family of
a defect is found, no cause that is not true of the pair is confirmed, and no defect is called harmless (or the reverse).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.corpus.cases import Judged, Planted

from whydiff.records import Verdict


@dataclass(frozen=True)
class Miss:
    """What a case that is not judged right gives today."""

    verdict: Verdict
    family: bool | None
    wrong: tuple[str, ...] = ()
    missed: bool = False


MISSES = {
    # the four origins' region is one op against none: FO008 and ST006 stay inconclusive
    "mistral_window_ignored": Miss(Verdict.SEMANTIC, family=False),
    # called semantic because the generator's state differs, although each run differs from itself
    "router_noise_left_on": Miss(Verdict.SEMANTIC, family=True),
}


@dataclass(frozen=True)
class Totals:
    """Scores of some cases.

    Attributes:
        cases: how many.
        defects: how many of them have a planted defect.
        verdicts: right verdicts.
        families: defects whose cause's family is found.
        wrong: cases in which a cause is confirmed that is not true of the pair.
        missed: defects called harmless, and benign pairs called defects.
        unreasoned: diagnoses without a reason.
    """

    cases: int
    defects: int
    verdicts: int
    families: int
    wrong: int = 0
    missed: int = 0
    unreasoned: int = 0


TOTALS = {
    "first": Totals(cases=46, defects=27, verdicts=46, families=27),
    "second": Totals(cases=34, defects=19, verdicts=34, families=19),
    "third": Totals(cases=24, defects=12, verdicts=23, families=11),
    "": Totals(cases=104, defects=58, verdicts=103, families=57),
}
"""By part; ``""``: in all."""


def expected(planted: Planted) -> Judged:
    """How a case is judged today."""
    miss = MISSES.get(planted.name)
    if miss is None:
        return Judged(verdict=True, family=True if planted.defect else None, wrong=(), missed=False)
    right = miss.verdict in planted.verdicts
    return Judged(verdict=right, family=miss.family, wrong=miss.wrong, missed=miss.missed)


def deviations(planted: Planted, judged: Judged, verdict: str) -> list[str]:
    """What of a case is not as it is written down here; empty if all is."""
    ours, found = expected(planted), []
    for name in ("verdict", "family", "wrong", "missed"):
        was, now = (vars(one)[name] for one in (ours, judged))
        if was != now:
            found.append(f"{name}: {now}, written down as {was}")
    miss = MISSES.get(planted.name)
    if miss is not None and miss.verdict != verdict:
        found.append(f"the verdict is {verdict}, written down as {miss.verdict.value}")
    return found


def totals(judged: Iterable[tuple[bool, Judged, str]]) -> Totals:
    """Scores of (defect, judged, reason of the diagnosis)."""
    rows = list(judged)
    return Totals(
        cases=len(rows),
        defects=sum(defect for defect, _, _ in rows),
        verdicts=sum(one.verdict for _, one, _ in rows),
        families=sum(one.family is True for _, one, _ in rows),
        wrong=sum(bool(one.wrong) for _, one, _ in rows),
        missed=sum(one.missed for _, one, _ in rows),
        unreasoned=sum(not reason for _, _, reason in rows),
    )
