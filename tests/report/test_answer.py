"""The first screen, word for word, and its style: plain words, 80 columns, inert text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from golden import GOLDEN, PRECISION, TWO_CAUSES

from plain import faults
from whydiff.records import Cause, Comparison, Count, Experiment, Intervention, Measurement, Remedy, Verdict
from whydiff.report._origins import groups
from whydiff.report._page import cards
from whydiff.report.answer import answer
from whydiff.report.terminal import TerminalReporter

FIVE_LINES = {
    "identical": """\
IDENTICAL: every output is bit-equal
where   nowhere
effect  none: the output is bit-equal
proof   both sides ran twice and gave the same bits each time
fix     nothing to do
""",
    "precision": """\
PRECISION, proven: state cast to lower precision (PR001)
where   model.rotary_emb.inv_freq – the only place where a difference starts
effect  96480 of 147456 elements differ; 33.3 % of the top-1 tokens flip
proof   undone in the candidate: mean difference 0.076 → 0
fix     Load the weights in bf16 instead of casting the whole model afterwards
        (untried)
        model = AutoModelForCausalLM.from_pretrained(path, dtype="bfloat16")
also    2 other suspects ruled out; 1 kind of value not compared
""",
    "two causes": """\
SEMANTIC, proven: other epsilon (SE003)
where   model.norm.eps – a difference starts in 6 places, first at model.norm:
        add (2nd)
effect  96480 of 147456 elements differ; 33.3 % of the top-1 tokens flip
proof   undone in the candidate: mean difference 0.01 → 1.0e-07
fix     Use the reference's epsilon (untried)
        model.norm.eps = 1e-5
also    a difference is left after correcting each place; 1 more that may act,
        undecided (-v): shape dependent kernel (RO001); 1 kind of value not
        compared
""",
    "inconclusive": """\
INCONCLUSIVE: no experiment could run on what was recorded
where   model.rotary_emb: cos – the only place where a difference starts
effect  96480 of 147456 elements differ
proof   no experiment decided
fix     whydiff capture --payloads all -o new.trace -- python SCRIPT.py
also    1 kind of value not compared
""",
    "incomparable": """\
INCOMPARABLE: the compared values are not counterparts of each other
where   no op of one side has a counterpart
effect  no output was compared
proof   no experiment decided
fix     run the same program on the same inputs on both sides, then compare
        again
also    40 extra ops in the reference; 4 extra ops in the candidate; 1 kind of
        value not compared
""",
    "nondeterministic": """\
NONDETERMINISTIC: a run gives other numbers when it is repeated
where   model.rotary_emb: cos – the only place where a difference starts
effect  96480 of 147456 elements differ; 33.3 % of the top-1 tokens flip
proof   the candidate ran twice and differed
fix     let each run begin alike (seeds, and what a run changes), then compare
        again
also    looking at the candidate changed its numbers; 1 kind of value not
        compared
""",
}


@pytest.mark.parametrize("case", FIVE_LINES)
def test_the_answer_word_for_word(case: str) -> None:
    assert answer(GOLDEN[case]).text() == FIVE_LINES[case]
    shown = TerminalReporter().render(GOLDEN[case]).splitlines()
    lines = FIVE_LINES[case].splitlines()
    assert shown[: len(lines)] == lines and shown[len(lines)] == ""


@pytest.mark.parametrize("case", GOLDEN)
@pytest.mark.parametrize("verdict", Verdict)
def test_every_answer_is_plain_whole_and_fits(case: str, verdict: Verdict) -> None:
    for causes in (GOLDEN[case].causes, (), (*GOLDEN[case].causes, *GOLDEN["two causes"].causes)):
        found = answer(replace(GOLDEN[case], verdict=verdict, reason="", causes=causes))
        assert [label for label, _ in found.lines()][:5] == ["", "where", "effect", "proof", "fix"]
        assert all(sentence for _, sentence in found.lines())
        assert faults(replace(GOLDEN[case], verdict=verdict, reason="", causes=causes)) == []


def test_an_incomplete_trace_is_in_the_answer() -> None:
    besides = answer(GOLDEN["incomplete"]).besides
    assert "1039 extra ops in the reference" in besides and "recording of the candidate is incomplete" in besides


def test_a_refuted_cause_is_never_the_answer() -> None:
    refuted = PRECISION.causes[1]
    found = answer(replace(PRECISION, causes=(refuted,)))
    assert refuted.code not in found.text() and "1 other suspect ruled out" in found.besides


def _cause(status: str, **given: object) -> Cause:
    undone = Experiment(
        interventions=(Intervention("set-scalar", "norm.eps", 1e-5),),
        prediction="gives the reference's outputs",
        outcome="bit-equal",
        status="confirmed",
        left="nothing",
        elements=182016,
    )
    done = replace(undone, direction="put_in")
    fields: dict[str, object] = {
        "code": "FO002",
        "name": "epsilon-differs",
        "site": "norm.eps",
        "verdict": Verdict.SEMANTIC,
        "says": "The candidate's epsilon is 1e-3, the reference's 1e-5.",
        "remedy": Remedy("Give both sides the same epsilon.", "candidate.norm.eps = 1e-5"),
        "status": status,
        "experiments": (undone, done) if status == "confirmed" else (undone,),
        "effect": (Measurement("one_in", 0.25, "output elements"),),
    }
    return Cause(**{**fields, **given})  # type: ignore[arg-type]


def test_outputs_of_which_a_part_was_compared_are_not_said_to_be_equal_as_a_whole() -> None:
    part = Count("rows of outputs", "3 of 4 are padding", 3, code="part")
    found = answer(replace(GOLDEN["identical"], not_compared=(part,)))
    assert found.headline == "IDENTICAL: every output is bit-equal where it was compared"
    assert found.effect == "none: the output is bit-equal where it was compared"


def test_a_proven_cause_is_said_with_both_experiments() -> None:
    found = answer(replace(PRECISION, verdict=Verdict.SEMANTIC, causes=(_cause("confirmed"),)))
    assert found.headline == "SEMANTIC, proven: the candidate's epsilon is 1e-3, the reference's 1e-5 (FO002)"
    assert found.proof == "undone in the candidate: all 182,016 numbers agree; done to the reference: the same"
    assert found.fix == "Give both sides the same epsilon (untried)"
    assert "        candidate.norm.eps = 1e-5\n" in found.text()


@pytest.mark.parametrize(
    ("remedy", "left", "said"),
    [
        (
            Remedy("Change it.", undoes="either", carried_out=True),
            "nothing",
            "Change it (tried: all 182,016 numbers agree)",
        ),
        (
            Remedy("Change it.", undoes="either"),
            "elsewhere",
            "Change it (tried: its places agree; what is left starts elsewhere)",
        ),
        (Remedy("Change it.", undoes="either"), "nowhere", "Change it (tried: no place differs any more)"),
        (
            Remedy("Change it.", undoes="either", carried_out=True),
            "rounding",
            "Change it (tried: only rounding is left)",
        ),
        (
            Remedy("Change it.", undoes="either"),
            "others_rounding",
            "Change it (tried: with the other causes only rounding is left)",
        ),
        (Remedy("Change it."), "nothing", "Change it (untried)"),
        (Remedy("Accept it.", accepts=True), "nothing", "Accept it"),
        (Remedy("Change it. " * 40), "nothing", "it. Change it (untried)"),
    ],
)
@pytest.mark.parametrize("status", ["confirmed", "located"])
def test_a_fix_says_whether_it_was_carried_out_and_what_was_left(
    remedy: Remedy, left: Any, said: str, status: str
) -> None:
    one = _cause(status, remedy=remedy)
    one = replace(one, experiments=tuple(replace(e, left=left) for e in one.experiments))
    found = replace(PRECISION, verdict=Verdict.SEMANTIC, causes=(one,))
    assert answer(found).fix.endswith(said) and len(answer(found).fix) <= 180
    assert not faults(found)
    how = said[said.find("(") :] if "(" in said else ""
    assert f"remedy{' ' + how if how else ''}: " in TerminalReporter(verbose=1).render(found)
    assert cards((one,))[0].tried == how


def test_a_fix_of_which_only_the_other_direction_was_tried_is_untried() -> None:
    one = _cause("located", remedy=Remedy("Change it.", undoes="either"))
    one = replace(one, experiments=tuple(replace(e, direction="put_in") for e in one.experiments))
    found = answer(replace(PRECISION, verdict=Verdict.SEMANTIC, causes=(one,)))
    assert found.fix == "Change it (untried)"
    assert found.proof.startswith("done to the reference: ")


def test_a_located_cause_starts_here_and_is_no_reason() -> None:
    found = answer(replace(PRECISION, verdict=Verdict.SEMANTIC, causes=(_cause("located"),)))
    assert found.headline.startswith("SEMANTIC, starts here: ")
    assert "shows where, not why" in found.proof
    assert "because" not in found.text() and "proven" not in found.text()
    tried = _cause("located", remedy=Remedy("Apply one activation.", undoes="candidate", carried_out=True))
    mended = answer(replace(PRECISION, verdict=Verdict.SEMANTIC, causes=(tried,)))
    assert "(tried: all 182,016 numbers agree)" in mended.fix
    assert "not why" not in mended.proof and mended.proof.endswith("agree; it was not tried the other way")


def test_a_cause_of_another_verdict_is_why_only_if_nothing_is_left_of_a_range_s_difference() -> None:
    for verdict, why in ((Verdict.UNSTABLE, True), (Verdict.PRECISION, False), (Verdict.NONDETERMINISTIC, False)):
        found = answer(replace(PRECISION, verdict=verdict, causes=(_cause("confirmed"),)))
        assert found.headline.startswith(f"{str(verdict).upper()}, proven: ") == why
        assert bool(found.causes) != why and ("epsilon" in found.fix) == why
    partly = _cause("confirmed", experiments=(replace(_cause("located").experiments[0], left="elsewhere"),))
    assert "proven" not in answer(replace(PRECISION, verdict=Verdict.UNSTABLE, causes=(partly,))).headline


def test_a_cause_that_nobody_could_decide_is_counted_beside_one_that_does_not_take_all() -> None:
    partly = _cause("confirmed", experiments=(replace(_cause("located").experiments[0], left="elsewhere"),))
    undecided = _cause("inconclusive", code="TR003", says="The candidate's weight_decay is 0.1.", experiments=())
    given = replace(PRECISION, verdict=Verdict.SEMANTIC, causes=(partly, undecided))
    said = "1 more that may act, undecided (-v): the candidate's weight_decay is 0.1 (TR003)"
    assert said in answer(given).besides
    for causes in ((_cause("confirmed"), undecided), (partly, replace(undecided, inert=True))):
        assert "may act" not in answer(replace(given, causes=causes)).besides


def test_why_looking_changes_numbers_is_said_once() -> None:
    check = replace(
        PRECISION.sides[0].observer, unchanged=False, why="a fused path is rounded otherwise; f(False) stops it"
    )
    sides = (replace(PRECISION.sides[0], observer=check),) * 2
    assert answer(replace(PRECISION, sides=sides)).besides.count(check.why) == 1
    open_one = replace(PRECISION, verdict=Verdict.INCONCLUSIVE, reason="", causes=(), sides=sides)
    assert answer(open_one).fix == check.why


def test_a_side_of_which_no_op_was_seen_is_named() -> None:
    seen, blind = PRECISION.sides[0], replace(PRECISION.sides[1], silent=True)
    said = "inside of the candidate no op was seen: numpy and other libraries are not looked into"
    assert said in answer(replace(PRECISION, sides=(seen, blind))).besides
    assert "no op was seen" not in answer(replace(GOLDEN["identical"], sides=(seen, blind))).besides


def test_an_open_cause_is_a_guess_and_its_fix_is_not_offered() -> None:
    found = answer(replace(PRECISION, verdict=Verdict.SEMANTIC, causes=(_cause("inconclusive"),)))
    assert "FO002" not in found.headline and "proven" not in found.text()
    assert "it may be that the candidate's epsilon" in found.proof
    assert found.code == "" and "epsilon" not in found.fix


def test_an_experiment_that_speaks_for_an_open_cause_is_told_and_the_fix_that_it_carried_out() -> None:
    undone = _cause("located").experiments[0]
    put = replace(undone, direction="put_in", status="inconclusive", left="", before=0.25, after=0.5)
    remedy = replace(_cause("located").remedy, undoes="either")  # type: ignore[type-var]
    found = answer(
        replace(
            PRECISION,
            verdict=Verdict.SEMANTIC,
            causes=(_cause("inconclusive", experiments=(undone, put), remedy=remedy),),
        )
    )
    assert "proven" not in found.text() and found.code == "candidate.norm.eps = 1e-5"
    assert found.proof == (
        "undone in the candidate: all 182,016 numbers agree; done to the reference: mean difference 0.25 → 0.5; it may be "
        "that the candidate's epsilon is 1e-3, the reference's 1e-5"
    )
    assert found.fix == "Give both sides the same epsilon (tried: all 182,016 numbers agree)"


@pytest.mark.parametrize("more", ["", " Short. Long enough to have no room any more, whatever is said here about it."])
def test_a_sentence_of_a_fix_is_shown_whole_or_not_begun(more: str) -> None:
    first = (
        f"Carry out {', '.join(f'op_{n}' for n in range(12))} at the same place, e.g. 1e-3. of a layer, on both sides."
    )
    found = answer(
        replace(PRECISION, verdict=Verdict.SEMANTIC, causes=(_cause("confirmed", remedy=Remedy(first + more)),))
    )
    shown = first + (" Short" if more else "")
    assert found.fix == f"{shown.rstrip('.')} (untried)"


def test_what_is_left_at_no_place_of_the_pair_is_said_to_come_of_the_change() -> None:
    undone, done = _cause("confirmed").experiments
    cause = _cause("confirmed", experiments=(undone, replace(done, left="elsewhere")))
    found = answer(replace(PRECISION, verdict=Verdict.SEMANTIC, causes=(cause,)))
    assert "the only place" in found.where and found.proof.endswith(
        "the place agrees; what else the change reaches does not"
    )


def test_where_experiments_ruled_all_out_it_is_not_said_that_none_decided() -> None:
    refuted = replace(_cause("refuted").experiments[0], status="refuted")
    found = answer(
        replace(PRECISION, verdict=Verdict.SEMANTIC, causes=(_cause("refuted", experiments=(refuted,), inert=True),))
    )
    assert found.proof == "the experiments rule out what was suspected; nothing else was tried"


def test_several_causes_are_ranked_each_with_its_own_effect() -> None:
    other = _cause("located", code="ST001", says="The two sides hold other weights.", site="head.weight", effect=())
    found = answer(replace(TWO_CAUSES, causes=(_cause("confirmed"), other)))
    assert (
        found.causes[0].startswith("the candidate's epsilon")
        and "moves the outputs by 0.25 on average" in found.causes[0]
    )
    assert "(FO002, proven), at norm.eps" in found.causes[0] and "(ST001, starts here)" in found.causes[1]
    assert "causes  1. the candidate's epsilon" in found.text() and "\n        2. the two sides" in found.text()
    many = answer(replace(TWO_CAUSES, causes=(_cause("confirmed"),) * 9))
    assert len(many.causes) == 5 and many.causes[-1] == "and 5 more"


def test_what_happens_to_tokens_and_to_numbers_that_are_none() -> None:
    impact = (
        Measurement("different", 0.64, "output.logits"),
        Measurement("max_abs", 0.56, "output.logits"),
        Measurement("top1_flips", 0.0, "positions"),
        Measurement("kl_mean", 0.00123, "nats"),
    )
    assert answer(replace(PRECISION, impact=impact)).effect == (
        "64.0 % of the logits change, at most by 0.56; no top-1 token flips; KL 0.0012"
    )
    rows = {0.0: "the largest of each row stays", 1.0: "in every row another number is the largest"}
    for share, words in {**rows, 0.25: "in 25.0 % of the rows another number is the largest"}.items():
        flips = (
            *impact[:2],
            Measurement("rel_l2", 0.003, "output"),
            Measurement("top1_flips", share, "rows"),
            impact[3],
        )
        said = answer(replace(PRECISION, impact=flips)).effect  # rows of numbers: no token, no choice, no KL
        assert said == f"64.0 % of the numbers change, at most by 0.56 (0.3 % of their size); {words}"
    parts = (Measurement("parts_at", 7.0, "output, of 32"),)
    nan = Comparison("differs", "", (Measurement("nan_mismatch", 0.5, "elements"),))
    said = answer(replace(PRECISION, impact=parts, outputs=(("output", nan),))).effect
    assert (
        "NaN on one side only" in said
        and "the tokens part at position 7 of 32, counted from 0 with the prompt if it is returned" in said
    )


def test_the_token_is_told_where_the_prompt_is_known_and_ids_are_counted() -> None:
    parts = (Measurement("parts_at", 7.0, "output, of 12"), Measurement("parts_at_generated", 4.0, "output"))
    assert answer(replace(PRECISION, impact=parts)).effect.endswith("with the prompt: the 4th generated one")
    undone = replace(_cause("located").experiments[0], left="", before=0.75, after=0.5, elements=12, choices=True)
    causes = (_cause("confirmed", experiments=(undone,)),) * 2
    found = answer(replace(PRECISION, verdict=Verdict.SEMANTIC, causes=causes))
    assert found.proof == "undone in the candidate: of 12 elements 9 differ → 6"
    assert found.causes[0].endswith("alone, it changes 3 of 12 elements, and all together 9")


def test_what_is_missing_follows_what_is_missing() -> None:
    def told(name: str, **changes: object) -> tuple[str, str]:
        changed = replace(GOLDEN[name], verdict=Verdict.INCONCLUSIVE, causes=(), **changes)  # type: ignore[arg-type]
        return answer(changed).headline, answer(changed).fix

    what, command = told("incomplete")
    assert "the recording of the candidate ended early" in what and "whydiff capture" in command
    assert "--payloads all" in told("inconclusive")[1]
    kept = tuple(replace(side, kept=True) for side in GOLDEN["inconclusive"].sides)
    assert "--payloads" not in told("inconclusive", sides=kept)[1], "that is what was done"
    elsewhere = replace(GOLDEN["inconclusive"], environment_changes=(("hardware.cpu", "a", "b"),), reason="")
    cause = _cause(
        "inconclusive", site="hardware.cpu", remedy=Remedy("Draw under one instruction set."), experiments=()
    )
    assert answer(replace(elsewhere, causes=(cause,))).fix.startswith("draw under one instruction set; whydiff matrix")
    live = (PRECISION.sides[0],) * 2
    assert "float64" in told("precision", sides=live)[1]
    assert "--level op" in told("precision", sides=(replace(live[0], level="module"),) * 2)[1]
    assert "no output could be compared" in told("precision", sides=live, outputs=())[0]
    assert "outside of the ops" in told("precision", sides=live, origins=())[0]
    unread = (("output", Comparison("not_compared", "a widget")), ("output.1", Comparison("agrees")))
    assert "1 output could not be read" in told("precision", sides=live, outputs=unread)[0]


def test_an_identical_run_whose_inside_differs_says_how_many_places() -> None:
    same = replace(PRECISION, verdict=Verdict.IDENTICAL, causes=(), origins=PRECISION.origins[:1])
    assert answer(same).where == "nowhere in the outputs; 1 place differs inside, without effect on them"


@pytest.mark.parametrize(("size", "text"), [(1.0e37, "1.0e+37 times their size"), (1.4, "1.4 times their size")])
def test_a_difference_larger_than_the_numbers_is_short(size: float, text: str) -> None:
    impact = (
        Measurement("different", 1.0, "output elements"),
        Measurement("max_abs", 2.0, "output elements"),
        Measurement("rel_l2", size, "output elements"),
    )
    differs = (("output", replace(PRECISION.outputs[0][1], status="differs")),)
    assert text in answer(replace(PRECISION, impact=impact, outputs=differs)).effect


def test_the_only_place_is_said_only_where_correcting_it_leaves_nothing() -> None:
    """Or where a cause was shown to be all of it."""
    left = replace(PRECISION, accounted=False)
    assert "the only place where a difference starts" in answer(replace(PRECISION, accounted=True)).where
    assert answer(left).where.endswith("the one place that was found")
    assert "a difference is left" in answer(left).besides
    whole = tuple(replace(e, left="nothing") for e in _cause("confirmed").experiments)
    proven = replace(left, causes=(replace(_cause("confirmed"), experiments=whole),))
    assert "the only place where a difference starts" in answer(proven).where
    assert "a difference is left" not in answer(proven).besides


def test_a_place_that_every_step_comes_through_is_one_place() -> None:
    one = PRECISION.origins[0]
    told = [replace(one, site=replace(one.site, step=step)) for step in range(5)]
    where = answer(replace(PRECISION, verdict=Verdict.ROUNDING, causes=(), origins=tuple(told), accounted=True)).where
    assert where.endswith("(and 4 more steps) – the only place where a difference starts")
    other = replace(one, site=replace(one.site, occurrence=7, step=3))
    two = answer(replace(PRECISION, verdict=Verdict.ROUNDING, causes=(), origins=(*told, other))).where
    assert two.endswith("(and 4 more steps) – the first of 2 places")
    rows = groups((*told, other))
    assert [(len(row.members), "(steps 0–4)" in row.label) for row in rows] == [(5, True), (1, False)]
