"""What a case of the corpus is, and how its diagnosis is judged."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from whydiff.records import Cause, Diagnosis, Verdict

Pair = tuple[Any, Any, tuple[Any, ...]]
"""(reference, candidate, positional inputs of both)."""
PARTS = ("first", "second", "third")
HARMLESS = ("OR", "SH", "EN", "CP")
"""Families that may be CONFIRMED on a benign pair: they name why the order of rounding differs."""


@dataclass(frozen=True)
class Planted:
    """One pair with what is true of it.

    Attributes:
        name: of the function that makes it.
        half: the part it is in: ``"first"`` (the detectors were written with it in sight), ``"second"`` (after they
            were frozen) or ``"third"`` (later still, by an author who had not read them).
        defect: a defect was planted; otherwise the pair is benign.
        verdicts: the verdicts that are right.
        families: codes or families (``"ST"``) of the planted causes; on a benign pair those that may be confirmed.
        every: all of ``families`` must be confirmed or located (several causes at once), not any one.
        also: families that are true as well: they may be confirmed and count as right.
        quick: runs in CI.
        make: builds the pair.
    """

    name: str
    half: Literal["first", "second", "third"]
    defect: bool
    verdicts: tuple[Verdict, ...]
    families: tuple[str, ...]
    make: Callable[[], Pair]
    every: bool = False
    also: tuple[str, ...] = ()
    quick: bool = False
    sites: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Judged:
    """A diagnosis held against what is true.

    Attributes:
        verdict: it is one of the right ones.
        family: the planted cause's family was found (None on a benign pair: nothing was planted).
        wrong: causes that are CONFIRMED, act, and are not true of the pair.
        missed: a defect called rounding or identical, or a benign pair called semantic or unstable.
    """

    verdict: bool
    family: bool | None
    wrong: tuple[str, ...]
    missed: bool


def judge(planted: Planted, diagnosis: Diagnosis) -> Judged:
    """Hold a diagnosis against what was planted."""
    acting = [cause for cause in diagnosis.causes if not cause.inert and cause.status != "refuted"]
    confirmed = [cause for cause in acting if cause.status == "confirmed"]
    proven = [cause for cause in acting if cause.status in ("confirmed", "located")]
    true = (*planted.families, *planted.also)
    if planted.defect:
        missed = diagnosis.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL)
        family: bool | None = (
            all(any(_is(cause, one) for cause in proven) for one in planted.families)
            if planted.every
            else bool(acting) and any(_is(acting[0], one) for one in true)
        )
    else:
        missed = diagnosis.verdict in (Verdict.SEMANTIC, Verdict.UNSTABLE)
        family = None
    wrong = tuple(f"{c.code} at {c.site}" for c in confirmed if not any(_is(c, one) for one in true))
    return Judged(diagnosis.verdict in planted.verdicts, family, wrong, missed)


def _is(cause: Cause, family: str) -> bool:
    return cause.code.startswith(family)


_CASES: dict[str, Planted] = {}


def defect(
    verdicts: str, families: str, *, every: bool = False, also: str = "", quick: bool = False
) -> Callable[[Callable[[], Pair]], Callable[[], Pair]]:
    """Register a planted defect; words are separated by spaces."""
    return _registered(True, verdicts, families.split(), every, also, quick)


def benign(
    verdicts: str = "rounding identical", families: str = "", *, quick: bool = False
) -> Callable[[Callable[[], Pair]], Callable[[], Pair]]:
    """Register a pair in which nothing is wrong."""
    return _registered(False, verdicts, [*HARMLESS, *families.split()], False, "", quick)


def _registered(
    planted: bool, verdicts: str, families: list[str], every: bool, also: str, quick: bool
) -> Callable[[Callable[[], Pair]], Callable[[], Pair]]:
    def register(make: Callable[[], Pair]) -> Callable[[], Pair]:
        name, half = make.__name__, make.__module__.rpartition(".")[2]
        if name in _CASES:
            raise ValueError(f"two cases are named {name}")
        allowed = tuple(Verdict(word) for word in verdicts.split())
        _CASES[name] = Planted(name, half, planted, allowed, tuple(families), make, every, tuple(also.split()), quick)  # type: ignore[arg-type]
        return make

    return register


def cases(half: str = "") -> Iterator[Planted]:
    """Every case, or those of one part."""
    for module in PARTS:
        if importlib.util.find_spec(f"tests.corpus.{module}") is not None:
            importlib.import_module(f"tests.corpus.{module}")
    return (case for case in _CASES.values() if half in ("", case.half))
