"""What is asked of the experiments for each cause, and what their outcomes are taken for.

The experiments are simulated: each side has causes that act, worth one unit each, and an intervention switches one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from whydiff.errors import ReplayError, collecting
from whydiff.explain.experiments import Outcome
from whydiff.judge.verify import verify
from whydiff.numbers.tolerance import SCALING_FLOOR
from whydiff.records import Cause, Comparison, Intervention, Measurement, Origin, Site, Slot, Verdict

SLOT = Slot(0, "output")


def switch(name: str, effect: str = "restore-state") -> Intervention:
    return Intervention(effect, name)


def cause(name: str, **fields: Any) -> Cause:
    own = (switch(name),)
    fields = {"interventions": own, "put_in": own, "verdict": Verdict.SEMANTIC, **fields}
    return Cause(code="ST001", name="weight-differs", site=name, **fields)


@dataclass
class World:
    """Experiments on a pair in which ``acting`` causes add one each to the mean difference of the outputs.

    Attributes:
        acting: targets that matter on the candidate (taken away) and on the reference (put in).
        refused: targets that no experiment supports, by side.
        broken: targets whose experiment cannot be carried out, or raises.
        float64: mean difference in float64 under interventions, by target switched; "" for none.
        origins: sites, each of which vanishes when the target of its name is switched.
        recorded: outputs were recorded.
        moves: how far a side's own outputs move in float64, whatever is changed on it.
    """

    acting: frozenset[str] = frozenset()
    refused: frozenset[tuple[str, str]] = frozenset()
    broken: frozenset[str] = frozenset()
    together: bool = True
    float64: dict[str, float] = field(default_factory=dict)
    origins: tuple[str, ...] = ()
    recorded: bool = True
    hidden: float = 0.0
    moves: float | None = None

    def supports(self, items: Sequence[Intervention], *, on: str = "candidate") -> bool:
        return not any((on, i.target) in self.refused for i in items) and (self.together or len(items) < 2)

    def try_out(self, items: Sequence[Intervention], *, on: str = "candidate") -> Outcome:
        targets = {i.target for i in items}
        if targets & self.broken:
            raise ReplayError("it cannot be switched", actual="broken")
        mean = len(self.acting - targets) + self.hidden
        found = Comparison("differs" if mean else "agrees", "", (Measurement("mean_abs", mean),))
        outputs = ((SLOT, found),) if self.recorded else ()
        return Outcome(mean == 0 and self.recorded, float(mean), 4, outputs, "replay")

    def apart_in_float64(self, items: Sequence[Intervention], *, on: str = "candidate") -> float | None:
        return self.float64.get(",".join(sorted(i.target for i in items)))

    def moves_in_float64(self, items: Sequence[Intervention], *, on: str = "candidate") -> float | None:
        return self.moves

    def origins_after(self, items: Sequence[Intervention], *, on: str = "candidate") -> set[str]:
        return set(self.origins) - {str(Site(i.target, "mm")) for i in items}

    def mirrored(self, items: Sequence[Intervention]) -> tuple[Intervention, ...]:
        return tuple(items)

    def drawing_alike(self, items: Sequence[Intervention], *, on: str = "candidate") -> tuple[Intervention, ...]:
        return tuple(items)


def judged(world: World, *causes: Cause) -> list[Cause]:
    origins = tuple(
        Origin(
            Site(name, "mm"),
            Site(name, "mm"),
            "state",
            Verdict.INCONCLUSIVE,
            Comparison("differs"),
            (0, 0),
            leaves=(name,),
        )
        for name in (site.partition(":")[0] for site in world.origins)
    )
    traces = (SimpleNamespace(leaves=()),) * 2
    case: Any = SimpleNamespace(experiments=world, localization=SimpleNamespace(origins=origins), traces=traces)
    return list(verify(case, causes))


def of(*names: str, **options: Any) -> World:
    return World(acting=frozenset(names), **options)


def test_a_cause_that_does_as_it_says_in_both_directions_is_confirmed() -> None:
    (found,) = judged(of("a"), cause("a"))
    assert (found.status, found.reason) == ("confirmed", "")
    assert [e.direction for e in found.experiments] == ["take_away", "put_in"]
    assert {m.metric: m.value for m in found.effect} == {"one_in": 1.0, "leave_one_out": 0.0}


def test_of_two_causes_each_is_measured_alone_and_without_the_other() -> None:
    first, second = judged(of("a", "b"), cause("a"), cause("b"))
    assert (first.status, second.status) == ("confirmed", "confirmed")
    assert {m.metric: m.value for m in first.effect} == {"one_in": 1.0, "leave_one_out": 1.0}


def test_a_decoy_beside_a_cause_is_inert() -> None:
    first, decoy = judged(of("a"), cause("a"), cause("b"))
    assert (first.status, first.inert) == ("confirmed", False)
    assert (decoy.status, decoy.inert) == ("refuted", True)


def test_what_cannot_be_switched_is_left_open_and_spoils_nothing() -> None:
    lost, open_, fine = judged(
        of("a", refused=frozenset({("candidate", "b")}), broken=frozenset({"c"})), cause("b"), cause("c"), cause("a")
    )
    assert lost.status == "inconclusive" and "needs a live run" in lost.reason
    assert open_.status == "inconclusive" and "the experiment failed: it cannot be switched" in open_.reason
    assert fine.status == "confirmed"


def test_what_an_intervention_holds_may_be_a_list() -> None:
    own = (Intervention("set-argument", "a", ("dims", [0])),)
    assert [one.status for one in judged(of("a", "b"), cause("a", interventions=own, put_in=own), cause("b"))] == [
        "confirmed",
        "confirmed",
    ]


def test_one_that_cannot_even_be_asked_about_costs_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(World):
        def supports(self, items: Sequence[Intervention], *, on: str = "candidate") -> bool:
            if on == "reference" and "b" in {i.target for i in items}:
                raise TypeError("no such thing")
            return super().supports(items, on=on)

    monkeypatch.delenv("WHYDIFF_RAISE")
    with collecting() as failures:
        fine, odd = judged(Odd(acting=frozenset({"a"}), origins=("a",)), cause("a"), cause("b"))
    assert (fine.status, odd.status) == ("confirmed", "refuted")
    assert [one.error for one in failures.found] == ["TypeError: no such thing"]


def test_a_cause_without_an_intervention_says_so_and_keeps_a_reason_of_its_own() -> None:
    (bare,) = judged(of("a"), cause("a", interventions=(), put_in=()))
    assert bare.reason == "no intervention is known for it"
    (own,) = judged(of("a"), cause("a", interventions=(), put_in=(), reason="measured elsewhere"))
    assert own.reason == "measured elsewhere"


def test_causes_that_cannot_be_joined_are_tried_alone() -> None:
    """Neither makes the outputs equal alone, and no experiment removes both."""
    found = judged(of("a", "b", together=False), cause("a"), cause("b"))
    assert [one.status for one in found] == ["inconclusive", "inconclusive"]


def test_what_cannot_be_put_in_is_located() -> None:
    (found,) = judged(of("a", refused=frozenset({("reference", "a")})), cause("a"))
    assert found.status == "located" and "it needs a live reference" in found.reason
    assert [e.direction for e in found.experiments] == ["take_away"]


def test_a_transplant_is_never_put_in() -> None:
    carried = (switch("a", "substitute"),)
    (found,) = judged(of("a"), cause("a", interventions=carried, put_in=carried))
    assert found.status == "located"
    assert [e.direction for e in found.experiments] == ["take_away"]


@pytest.mark.parametrize(
    ("verdict", "before", "after", "status"),
    [
        (Verdict.SEMANTIC, 0.1, SCALING_FLOOR / 2, "confirmed"),
        (Verdict.SEMANTIC, 0.1, SCALING_FLOOR * 2, "inconclusive"),
        (Verdict.SEMANTIC, SCALING_FLOOR / 2, SCALING_FLOOR / 4, "inconclusive"),
        (Verdict.PRECISION, 0.1, 0.0, "inconclusive"),
    ],
)
def test_only_rounding_is_left(verdict: Verdict, before: float, after: float, status: str) -> None:
    """Bits remain that no cause claims; in float64 the difference is there before, and gone after."""
    world = of("a", float64={"": before, "a": after}, hidden=0.25)
    (found,) = judged(world, cause("a", verdict=verdict))
    assert found.status == status, found.reason


def test_a_cause_of_rounding_may_not_make_another_function() -> None:
    world = of("a", float64={"": 0.0, "a": 0.5}, hidden=0.25)
    (found,) = judged(world, cause("a", verdict=Verdict.ROUNDING))
    assert found.status == "refuted" and "in float64" in found.reason
    (same,) = judged(replace(world, float64={"": 0.0, "a": 0.0}), cause("a", verdict=Verdict.ROUNDING))
    assert same.status != "refuted"


def test_a_part_of_the_difference_is_told_by_its_origins() -> None:
    world = of("a", hidden=1.0, origins=("a:mm#0", "b:mm#0"))
    (found,) = judged(world, cause("a"))
    assert found.status == "confirmed"
    assert "1 of 1 places vanish" in found.experiments[0].outcome
    (other,) = judged(world, cause("c"))
    assert other.status != "confirmed"


@pytest.mark.parametrize(("moves", "status"), [(1e-16, "inconclusive"), (1e-3, "confirmed"), (None, "confirmed")])
def test_another_function_that_moves_the_outputs_by_rounding_alone_is_not_confirmed_by_its_origins(
    moves: float | None, status: str
) -> None:
    world = of("a", hidden=1.0, origins=("a:mm#0", "b:mm#0"), moves=moves)
    (found,) = judged(world, cause("a"))
    assert found.status == status, found.reason
    (rounding,) = judged(world, cause("a", verdict=Verdict.ROUNDING))
    assert rounding.status == "confirmed"


def test_nothing_is_confirmed_where_nothing_differs() -> None:
    (found,) = judged(of(), cause("a"))
    assert found.status != "confirmed"
