"""The verdict of an origin and of the whole from measurements that are written down here, one row a rule."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from whydiff.explain.local_test import LocalResult
from whydiff.explain.scale import Difference, Scale
from whydiff.explain.scaling import Modes, Scaling
from whydiff.judge.each_origin import judge_origins, needs_local_test
from whydiff.judge.verdict import judge
from whydiff.numbers.cancellation import Cancelled
from whydiff.numbers.tolerance import CAST_ARTEFACT
from whydiff.records import (
    Alignment,
    Call,
    Cause,
    Comparison,
    Count,
    Intervention,
    Measurement,
    ObserverCheck,
    Origin,
    Pair,
    Site,
    Slot,
    Verdict,
)

EQUAL = Scale(Difference(0, 1), Difference(0, 1))
ROUNDING = Scale(Difference(1e-7, 1), Difference(1e-16, 1))
BETWEEN = Scale(Difference(0, 1), Difference(1e-3, 1))
STAYS = Scale(Difference(1e-3, 1), Difference(1e-3, 1))
BROKEN = Scale(Difference(1e-3, 1), Difference(0, 1, special=1))
HERE = Site("m", "mm", slot="output")
DIFFERS = Comparison("differs", "1 of 4 elements differ", (Measurement("mean_abs", 1e-3),))


def origin(kind: Any = "implementation", **fields: Any) -> Origin:
    fields = {"comparison": DIFFERS, "calls": (0, 0), **fields}
    return Origin(site=HERE, candidate_site=HERE, kind=kind, verdict=Verdict.INCONCLUSIVE, **fields)


def trace(**fields: Any) -> Any:
    calls = (Call(0, HERE, "aten.mm", "compute"), Call(1, Site("", "return"), "return", "return"))
    fields = {"calls": calls, "contexts": ({},), "complete": True, "observer": ObserverCheck(True, True), **fields}
    return SimpleNamespace(leaves=(), level="op", outputs=(), framework="torch", refused="not recorded", **fields)


def case(*origins: Origin, **fields: Any) -> Any:
    """A pair of runs in which one call is paired; only what the judge asks for."""
    local = {
        "origins": origins,
        "outputs": ((Slot(0, "output"), DIFFERS),) if origins else ((Slot(0, "output"), Comparison("agrees")),),
        "silent": "",
        "agreeing": 3,
        "propagated": 0,
        "counts": (),
        **fields.pop("local", {}),
    }
    found = {
        "localization": SimpleNamespace(**local),
        "reference": trace(),
        "candidate": trace(),
        "alignment": Alignment((Pair(0, 0), Pair(1, 1))),
        "differing_leaves": (),
        "lone_leaves": lambda: ((), ()),
        "paired": lambda: (),
        "rename": lambda name: name,
        "shared": lambda key, make: make(),
        **fields,
    }
    traces = {side: found[side] for side in ("reference", "candidate")}
    return SimpleNamespace(**found, traces=(*traces.values(),), trace=traces.__getitem__)


def one(kind: Any, modes: Modes, *, program: Modes | None = None, **options: Any) -> Verdict:
    """The verdict of the only origin."""
    causes = options.pop("causes", ())
    local = options.pop("local", None)
    context = options.pop("context", {})
    scaling = Scaling(program=program or modes, origins=(modes,), **options)
    (found,) = judge_origins(case(origin(kind, **context)), causes, scaling, local)
    return found.verdict


@pytest.mark.parametrize(
    ("modes", "verdict"),
    [
        (Modes(STAYS), "semantic"),
        (Modes(BETWEEN), "inconclusive"),
        (Modes(ROUNDING), "rounding"),
        (Modes(ROUNDING, kept=ROUNDING), "rounding"),
        (Modes(ROUNDING, kept=STAYS), "precision"),
        (Modes(EQUAL), "inconclusive"),
        (Modes(), "inconclusive"),
    ],
)
def test_what_scaling_says_of_one_op(modes: Modes, verdict: str) -> None:
    assert one("implementation", modes, program=Modes(STAYS)).value == verdict


def test_an_origin_that_stays_is_harmless_where_the_outputs_agree_lifted() -> None:
    assert one("region", Modes(STAYS), program=Modes(ROUNDING)) is Verdict.ROUNDING
    assert one("region", Modes(STAYS), program=Modes(ROUNDING, kept=STAYS)) is Verdict.PRECISION
    assert one("region", Modes(STAYS), program=Modes(STAYS)) is Verdict.SEMANTIC


def test_regions_that_act_alone_and_agree_are_rounding() -> None:
    alone = {"regions": ROUNDING, "program": Modes(STAYS)}
    assert one("region", Modes(STAYS), together=frozenset({0}), **alone) is Verdict.ROUNDING
    assert one("region", Modes(STAYS), together=frozenset(), **alone) is Verdict.SEMANTIC
    stays = {"regions": STAYS, "program": Modes(STAYS)}
    assert one("region", Modes(STAYS), together=frozenset({0}), **stays) is Verdict.SEMANTIC


def test_arguments_that_could_not_be_lifted_are_another_function() -> None:
    assert one("arguments", Modes()) is Verdict.SEMANTIC
    assert one("implementation", Modes()) is Verdict.INCONCLUSIVE
    assert one("arguments", Modes(), program=Modes(EQUAL)) is Verdict.ROUNDING


def test_a_kept_cast_whose_difference_was_never_recorded_is_an_artefact() -> None:
    modes = Modes(ROUNDING, kept=Scale(Difference(1, 1), Difference(CAST_ARTEFACT * 1e-3 * 1.01, 1)))
    assert one("implementation", modes, program=Modes(STAYS)) is Verdict.ROUNDING


@pytest.mark.parametrize("metric", ["nan_mismatch", "inf_mismatch"])
def test_what_is_not_finite_on_one_side_only_is_unstable(metric: str) -> None:
    strange = replace(DIFFERS, measurements=(Measurement(metric, 0.25),))
    assert one("implementation", Modes(STAYS), context={"comparison": strange}) is Verdict.UNSTABLE
    lifted = one("implementation", Modes(BROKEN), context={"comparison": strange})
    assert (lifted is Verdict.UNSTABLE) == (metric == "nan_mismatch")  # an infinity that float64 has as well is a value


def test_the_local_test_decides_between_kernels_and_what_lifting_left_open() -> None:
    def local(verdict: Verdict) -> dict[int, LocalResult]:
        return {0: LocalResult(verdict, "measured")}

    rounding = {"program": Modes(ROUNDING)}
    assert one("implementation", Modes(BETWEEN), local=local(Verdict.ROUNDING)) is Verdict.ROUNDING
    assert one("region", Modes(BETWEEN), local=local(Verdict.SEMANTIC)) is Verdict.SEMANTIC
    assert one("region", Modes(STAYS), program=Modes(STAYS), local=local(Verdict.ROUNDING)) is Verdict.SEMANTIC
    assert one("implementation", Modes(ROUNDING), local=local(Verdict.PRECISION), **rounding) is Verdict.PRECISION
    assert one("region", Modes(ROUNDING), local=local(Verdict.PRECISION), **rounding) is Verdict.ROUNDING
    assert one("implementation", Modes(ROUNDING), local=local(Verdict.INCONCLUSIVE), **rounding) is Verdict.ROUNDING
    assert one("region", Modes(ROUNDING), local=local(Verdict.UNSTABLE), **rounding) is Verdict.UNSTABLE


def test_digits_are_lost_only_where_float64_brings_them_back() -> None:
    lost = {0: LocalResult(Verdict.UNSTABLE, "it cancels")}
    assert one("region", Modes(STAYS), local=lost, alone=True) is Verdict.SEMANTIC
    assert one("region", Modes(STAYS), local=lost) is Verdict.UNSTABLE  # the outputs' difference, not this place's
    assert one("region", Modes(ROUNDING), program=Modes(STAYS), local=lost, alone=True) is Verdict.UNSTABLE
    assert one("region", Modes(BETWEEN), program=Modes(STAYS), local=lost, alone=True) is Verdict.UNSTABLE


def cause(**fields: Any) -> Cause:
    fields = {"interventions": (Intervention("set-module", str(HERE)),), "verdict": Verdict.PRECISION, **fields}
    return Cause("ST005", "setting-differs", str(HERE), **fields)


def test_a_proven_cause_gives_its_verdict_to_its_origin_and_no_other() -> None:
    semantic = {"program": Modes(STAYS)}
    assert one("arguments", Modes(STAYS), causes=[cause(status="confirmed")], **semantic) is Verdict.PRECISION
    assert one("arguments", Modes(STAYS), causes=[cause(status="located")], **semantic) is Verdict.PRECISION
    for other in (
        cause(status="inconclusive"),
        cause(status="refuted"),
        cause(status="confirmed", inert=True),
        replace(cause(status="confirmed", interventions=()), site="elsewhere"),
    ):
        assert one("arguments", Modes(STAYS), causes=[other], **semantic) is Verdict.SEMANTIC


def test_a_proven_cause_does_not_make_an_infinity_on_one_side_harmless() -> None:
    strange = {"comparison": replace(DIFFERS, measurements=(Measurement("nan_mismatch", 0.25),))}
    proven = [cause(status="confirmed", verdict=Verdict.ROUNDING)]
    assert one("arguments", Modes(STAYS), causes=proven, context=strange) is Verdict.UNSTABLE


def test_of_several_proven_causes_the_most_severe_counts() -> None:
    both = [cause(status="confirmed"), cause(status="confirmed", verdict=Verdict.SEMANTIC)]
    assert one("arguments", Modes(ROUNDING), causes=both) is Verdict.SEMANTIC
    assert one("arguments", Modes(ROUNDING), causes=both[::-1]) is Verdict.SEMANTIC


def test_the_local_test_is_asked_where_scaling_cannot_tell() -> None:
    def needed(kind: Any, modes: Modes) -> bool:
        return needs_local_test(case(origin(kind)), Scaling(program=modes, origins=(modes,)))

    assert needed("implementation", Modes(STAYS))
    assert not needed("region", Modes(STAYS)) and not needed("region", Modes(ROUNDING))
    assert needed("region", Modes(BETWEEN)) and needed("region", Modes(EQUAL)) and needed("region", Modes())
    assert not needed("state", Modes(BETWEEN))


# ----------------------------------------------------------------------- the whole difference


def whole(subject: Any, scaling: Scaling | None = None, causes: Any = ()) -> Verdict:
    return judge(subject, subject.localization.origins, causes, scaling)[0]


def judged(verdict: Verdict) -> Origin:
    return replace(origin(), verdict=verdict)


@pytest.mark.parametrize("order", [1, -1])
def test_the_most_severe_origin_decides(order: int) -> None:
    origins = (judged(Verdict.ROUNDING), judged(Verdict.SEMANTIC), judged(Verdict.PRECISION))[::order]
    assert whole(case(*origins)) is Verdict.SEMANTIC


def test_rounding_everywhere_and_a_difference_that_stays_contradict_each_other() -> None:
    rounding = case(judged(Verdict.ROUNDING))
    assert whole(rounding, Scaling(program=Modes(STAYS))) is Verdict.INCONCLUSIVE
    assert whole(rounding, Scaling(program=Modes(ROUNDING))) is Verdict.ROUNDING
    precise = case(judged(Verdict.PRECISION))
    assert whole(precise, Scaling(program=Modes(STAYS))) is Verdict.PRECISION
    assert whole(precise, Scaling(program=Modes(STAYS), origins=(Modes(STAYS),))) is Verdict.PRECISION


def test_an_origin_that_was_missed_is_no_precision() -> None:
    precise = case(judged(Verdict.PRECISION))
    assert whole(precise, Scaling(program=Modes(STAYS), origins=(Modes(ROUNDING),))) is Verdict.SEMANTIC
    assert whole(precise, Scaling(program=Modes(ROUNDING), origins=(Modes(ROUNDING),))) is Verdict.PRECISION


def test_a_run_that_differs_from_itself_is_nondeterministic_whatever_else() -> None:
    for side in ("reference", "candidate"):
        subject = case(judged(Verdict.SEMANTIC), **{side: trace(observer=ObserverCheck(False, True))})
        assert whole(subject) is Verdict.NONDETERMINISTIC


def test_no_origin_and_no_difference_is_identical_only_of_complete_runs_that_looking_left_alone() -> None:
    assert whole(case()) is Verdict.IDENTICAL
    for side in ("reference", "candidate"):
        assert whole(case(**{side: trace(complete=False)})) is Verdict.INCONCLUSIVE
        assert whole(case(**{side: trace(observer=ObserverCheck(True, False))})) is Verdict.INCONCLUSIVE
    assert whole(case(local={"propagated": 2})) is not Verdict.IDENTICAL
    apart = (Count("values", "they depend on rows that only one run has", 2, code="no counterpart"),)
    assert whole(case(local={"propagated": 2, "counts": apart})) is Verdict.IDENTICAL


def test_outputs_that_differ_without_an_origin_are_judged_by_scaling() -> None:
    outputs = {"local": {"outputs": ((Slot(0, "output"), DIFFERS),)}}
    for modes, verdict in (
        (Modes(STAYS), Verdict.SEMANTIC),
        (Modes(ROUNDING), Verdict.ROUNDING),
        (Modes(ROUNDING, kept=STAYS), Verdict.PRECISION),
        (Modes(BETWEEN), Verdict.INCONCLUSIVE),
    ):
        assert whole(case(**outputs), Scaling(program=modes)) is verdict


def test_nothing_in_common_is_incomparable() -> None:
    nothing = {"alignment": Alignment((Pair(1, 1),)), "local": {"agreeing": 0}}
    assert whole(case(**nothing)) is Verdict.INCOMPARABLE
    assert whole(case(judged(Verdict.SEMANTIC), **nothing)) is Verdict.INCOMPARABLE


def test_an_output_that_is_nan_on_one_side_is_unstable_unless_an_origin_says_so_already() -> None:
    strange = replace(DIFFERS, measurements=(Measurement("nan_mismatch", 1.0),))
    outputs = {"local": {"outputs": ((Slot(0, "output"), strange),)}}
    assert whole(case(judged(Verdict.ROUNDING), **outputs)) is Verdict.UNSTABLE


def test_a_proven_lack_of_counterparts_is_incomparable_unless_another_cause_acts() -> None:
    apart = cause(status="confirmed", verdict=Verdict.INCOMPARABLE)
    assert whole(case(judged(Verdict.SEMANTIC)), causes=[apart]) is Verdict.INCOMPARABLE
    both = [apart, cause(status="confirmed", verdict=Verdict.SEMANTIC)]
    assert whole(case(judged(Verdict.SEMANTIC)), causes=both) is Verdict.SEMANTIC


def test_digits_that_one_side_loses_are_unstable_not_rounding() -> None:
    lost = Cancelled(worse=1, lost=14.0, other=1.0, digits=24.0)
    assert whole(case(judged(Verdict.ROUNDING)), Scaling(program=Modes(ROUNDING), cancelled=lost)) is Verdict.UNSTABLE
    assert whole(case(judged(Verdict.SEMANTIC)), Scaling(program=Modes(STAYS), cancelled=lost)) is Verdict.SEMANTIC
