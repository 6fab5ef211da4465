"""The answer that everybody reads first: five plain sentences, built here and nowhere else.

The terminal, Markdown, HTML, JSON, notebooks and the messages of tests all show this record. Its sentences use the
words of the glossary's last column; what only somebody who knows whydiff would understand stays in the sections.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from whydiff.records import STANDING, Cause, Diagnosis, Origin, Site, Verdict
from whydiff.report._effect import (
    NOTHING,
    cause_effect,
    effect,
    has_more,
    has_more_beside,
    returned_nothing,
    where_compared,
)
from whydiff.report._missing import missing
from whydiff.report.proof import may_follow, open_fix, others, proof, tried
from whydiff.report.words import clause, count, place, plain

WIDTH = 80
"""Columns that the answer fits, wherever it is written: the same text on a terminal and through a pipe."""
_WITH_OTHERS = ("others", "others_rounding")
"""What is left where the causes found beside one had to be changed too (`whydiff.records.Left`)."""
_CAUSES = 4
"""Causes that the answer lists; the rest is counted."""
LABEL = 8
"""Columns of a line's label."""
_FIX = 180
"""Characters of the fix that stand in the answer, its first sentence apart; the cause's own part of the report has all."""
_NAMED = 4
"""Outputs that a fix names; the rest is counted."""
_CODE_LINES = 3
"""Lines of a fix's code that stand in the answer; longer code is shown with the details."""

MEANING = {
    Verdict.IDENTICAL: "every output is bit-equal",
    Verdict.ROUNDING: "the same computation, rounded in another order",
    Verdict.PRECISION: "the same formula, carried out at another precision",
    Verdict.SEMANTIC: "the two sides compute different functions",
    Verdict.UNSTABLE: "one side overflows, makes NaN or loses its digits",
    Verdict.NONDETERMINISTIC: "a run gives other numbers when it is repeated",
    Verdict.INCOMPARABLE: "the compared values are not counterparts of each other",
    Verdict.INCONCLUSIVE: "the evidence does not decide",
}
_ADVICE = {
    Verdict.IDENTICAL: "nothing to do",
    Verdict.ROUNDING: "accept it; a check may allow it with --allow rounding",
    Verdict.PRECISION: "choose one precision for both sides, then compare again",
    Verdict.SEMANTIC: "make both sides agree at this place, then compare again",
    Verdict.UNSTABLE: "keep the values in range at this place, then compare again",
    Verdict.NONDETERMINISTIC: "let each run begin alike (seeds, and what a run changes), then compare again",
    Verdict.INCOMPARABLE: "run the same program on the same inputs on both sides, then compare again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What happened, where, what it does to the outputs, how that is known and what to change.

    Attributes:
        verdict: the verdict's word, for colour.
        headline: the verdict in capitals, whether it is proven, and one sentence.
        where: the place, as people name it.
        effect: what changes in the outputs.
        proof: what was tried, in both directions.
        fix: what to change, and whether that was tried.
        code: to paste; empty if there is none.
        causes: one sentence each with its own effect, the largest first, where several act or one that is not why.
        besides: what limits the answer: what was left out, cut short or ruled out.
    """

    verdict: str
    headline: str
    where: str
    effect: str
    proof: str
    fix: str
    code: str = ""
    causes: tuple[str, ...] = ()
    besides: str = ""

    def lines(self) -> tuple[tuple[str, str], ...]:
        """(label, sentence) pairs: the five, then the causes where there are several; the headline has no label."""
        five = (("", self.headline), ("where", self.where), ("effect", self.effect), ("proof", self.proof))
        ranked = [("causes" if rank == 1 else "", f"{rank}. {text}") for rank, text in enumerate(self.causes, 1)]
        return (*five, ("fix", self.fix), *ranked, *([("also", self.besides)] if self.besides else []))

    def text(self, width: int = WIDTH) -> str:
        """The answer in lines of at most ``width`` columns, ending with a newline."""
        written = []
        for label, text in self.lines():
            written += folded(label, text, width)
            if label == "fix":
                written += [" " * LABEL + line for line in short_code(self.code, width)]
        return "\n".join(written) + "\n"


def short_code(code: str, width: int = WIDTH) -> tuple[str, ...]:
    """The lines of a fix's code, if they are few and fit; else none."""
    lines = code.rstrip().splitlines()
    return tuple(lines) if len(lines) <= _CODE_LINES and all(len(x) <= width - LABEL for x in lines) else ()


def folded(label: str, text: str, width: int = WIDTH) -> list[str]:
    """A labelled sentence in lines of at most ``width`` columns; only a word that is wider is broken."""
    headline = not label and not text[:1].isdigit()
    first = "" if headline else label.ljust(LABEL)
    fold = textwrap.TextWrapper(width, initial_indent=first, subsequent_indent=" " * (2 if headline else LABEL))
    fold.break_on_hyphens = False
    return fold.wrap(text) or [first.rstrip()]


def whole_sentences(text: str, most: int) -> str:
    """As many of the first sentences as have at most this many characters; the first one always.

    Of one that has more than twice as many, a list of clauses, the first clauses are shown, and that there are more.
    """
    first, *rest = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text.strip())
    if len(first) > 2 * most and "; " in first[: 2 * most]:
        return f"{first[: 2 * most].rpartition('; ')[0]}; and more (-v)"
    for sentence in rest:
        if len(first) + 1 + len(sentence) > most:
            break
        first = f"{first} {sentence}"
    return first


def answer(diagnosis: Diagnosis) -> Answer:
    """The answer of a diagnosis; complete for every verdict, also where nothing differs."""
    cause = leading(diagnosis)
    mended = cause if cause and (cause.status in STANDING or open_fix(cause)) else None
    remedy = mended.remedy if mended else None
    acting = [c for c in diagnosis.causes if (c.status in STANDING or may_follow(c)) and not c.inert]
    return Answer(
        verdict=str(diagnosis.verdict),
        headline=_headline(diagnosis, cause),
        where=_where(diagnosis, cause),
        effect=effect(diagnosis),
        proof=proof(diagnosis, cause),
        fix=_fix(diagnosis, mended) + _next(diagnosis, cause, mended),
        code=plain(remedy.code) if remedy and diagnosis.verdict is not Verdict.INCONCLUSIVE else "",
        causes=_causes(acting) if len(acting) > 1 or cause not in acting else (),
        besides=_besides(diagnosis, cause),
    )


def leading(diagnosis: Diagnosis) -> Cause | None:
    """The cause that the answer is about: proven or located, and why the diagnosis' own verdict is what it is.

    Where none is, the first that experiments leave open and that would make the verdict what it is; never one that is
    refuted or has no effect on this input.
    """
    live = [c for c in diagnosis.causes if c.status != "refuted" and not c.inert]
    shown = [c for c in live if c.status in STANDING]
    mine = [c for c in shown if c.verdict is diagnosis.verdict]
    why = [c for c in shown if _is_why(diagnosis.verdict, c)]
    other = diagnosis.verdict is Verdict.SEMANTIC  # which no rounding makes
    left = [c for c in live if c not in shown and not (other and c.verdict in (Verdict.ROUNDING, Verdict.PRECISION))]
    return next(iter([*mine, *why, *left]), None)


def _is_why(verdict: Verdict, cause: Cause) -> bool:
    """Whether a cause of another verdict explains this one: another function that overflows, without which all agree."""
    return verdict is Verdict.INCONCLUSIVE or (verdict is Verdict.UNSTABLE and _takes_all(cause))


def _undecided(diagnosis: Diagnosis, cause: Cause | None) -> list[Cause]:
    """Causes beside the one that the answer is about of which no experiment says whether they act."""
    return [
        c
        for c in diagnosis.causes
        if c is not cause and c.status == "inconclusive" and not c.inert and not may_follow(c)
    ]


def _takes_all(cause: Cause) -> bool:
    """Whether nothing differs without the cause, as an experiment showed, and none needed others for that."""
    made = [e.left for e in cause.experiments if e.status == "confirmed"]
    return "nothing" in made and not {*made} & {*_WITH_OTHERS}


def _leaves_nothing(cause: Cause) -> bool:
    """Whether nothing differs without the cause, alone or with the others that were found."""
    return any(e.status == "confirmed" and e.left in ("nothing", *_WITH_OTHERS) for e in cause.experiments)


def is_left(diagnosis: Diagnosis) -> bool:
    """Whether a difference was left after correcting each place, and no causes take all of it away."""
    return diagnosis.accounted is False and not any(map(_leaves_nothing, diagnosis.causes))


def sentence(cause: Cause) -> str:
    """A cause in one plain sentence: its own, or its name as words."""
    return clause(cause.says) or plain(cause.name.replace("-", " "))


def _headline(diagnosis: Diagnosis, cause: Cause | None) -> str:
    verdict, standing, said = diagnosis.verdict, "", MEANING[diagnosis.verdict]
    if verdict is Verdict.INCONCLUSIVE:
        said = missing(diagnosis).what
    elif verdict is Verdict.INCOMPARABLE and cause is None and has_more(diagnosis):
        said = f"{has_more(diagnosis)}; what both come to is bit-equal"
    elif (
        verdict is Verdict.INCOMPARABLE
        and (cause is None or cause.status not in STANDING)
        and has_more_beside(diagnosis)
    ):
        common = any(not comparison.only for _, comparison in diagnosis.outputs)
        rest = "the rest differs" if common else "nothing is in the same place on both"
        said = f"{has_more_beside(diagnosis)}, which nothing was compared with; {rest}"
    elif verdict is Verdict.ROUNDING and diagnosis.by_tolerance is not None:
        said = "no more than rounding may make of the outputs"
    elif verdict is Verdict.IDENTICAL and returned_nothing(diagnosis):
        said = f"{NOTHING}; what each computed last is bit-equal"
    elif verdict is Verdict.IDENTICAL:
        said = f"{said}{where_compared(diagnosis)}" if diagnosis.outputs else "zero bits differ in what was compared"
        if any(one.code == "python" for one in diagnosis.not_compared):
            said += "; what the scripts may print of it was not compared"
    elif cause is not None and cause.status in STANDING:
        said, standing = f"{sentence(cause)} ({plain(cause.code)})", f", {STANDING[cause.status]}"
    return f"{str(verdict).upper()}{standing}: {said}"


def _where(diagnosis: Diagnosis, cause: Cause | None) -> str:
    origins = diagnosis.origins if _none_acts(diagnosis) else _acting(diagnosis.origins)
    places = list(dict.fromkeys(anywhen(origin) for origin in origins))
    if diagnosis.verdict is Verdict.IDENTICAL or has_more(diagnosis):
        inside = count(len(places), "place differs", "places differ")
        nowhere = (
            "nowhere in what both have" if has_more(diagnosis) else "nowhere in the outputs" if origins else "nowhere"
        )
        return f"{nowhere}; {inside} inside, without effect on them" if origins else nowhere
    named = cause.site if cause is not None and cause.status in STANDING else ""
    if not origins:
        if named:
            return place(named)
        return "no place was found" if diagnosis.alignment.pairs else "no op of one side has a counterpart"
    worst = next((o for o in origins if o.verdict is diagnosis.verdict), origins[0])
    begin = next((o for o in origins if named in (str(o.place), str(o.place.at("")))), None) if named else worst
    at = place(named) if begin is None else _repeated(begin, origins)
    there = next((o for o in origins if named == str(o.candidate_site)), None) if begin is None else None
    if there is not None:
        begin, at = there, f"{_repeated(there, origins)} (in the candidate: {place(named)})"
    line = _line(begin or origins[0], candidate=there is None)
    if begin is None and len(origins) > 1:
        starts = "at one place," if len(places) == 1 else f"in {len(places)} places, first at"
        return f"{at} – a difference starts {starts} {_repeated(origins[0], origins)}{line}"
    if len(places) == 1:
        only = "the one place that was found" if is_left(diagnosis) else "the only place where a difference starts"
        return f"{at} – {only}{line}"
    first = begin is not None and anywhen(begin) == places[0]
    return f"{at} – {'the first' if first else 'one'} of {len(places)} places{line}"


def _line(origin: Origin, *, candidate: bool) -> str:
    """The user's own line that makes a place, as the end of a sentence: `` (train.py:42)``.

    ``candidate``: where that line makes it by another op, which is that of the candidate, the op is told too.
    """
    name = plain(origin.line.replace("\\", "/").rpartition("/")[2])
    there = origin.candidate_site
    if candidate and origin.calls[1] >= 0 and origin.place.op not in ("", there.op):
        return f" (in the candidate: {place(str(there))}{f', {name}' if name else ''})"
    return f" ({name})" if name else ""


def _none_acts(diagnosis: Diagnosis) -> bool:
    """Whether all that both sides have is bit-equal, whatever differs inside."""
    return diagnosis.verdict is Verdict.IDENTICAL or bool(has_more(diagnosis))


def _acting(origins: Sequence[Origin]) -> tuple[Origin, ...]:
    """Places of which it is not shown that they change no output."""
    return tuple(one for one in origins if one.verdict is not Verdict.IDENTICAL)


def anywhen(origin: Origin) -> Site:
    """A place of the program, whichever step (of training, or generated token) comes through it."""
    return replace(origin.place, step=0)


def _repeated(origin: Origin, origins: Sequence[Origin]) -> str:
    """A place with its step, and in how many more a difference starts there."""
    more = len({other.place.step for other in origins if anywhen(other) == anywhen(origin)}) - 1
    return place(str(origin.place)) + (f" (and {count(more, 'more step', 'more steps')})" if more else "")


def _fix(diagnosis: Diagnosis, cause: Cause | None) -> str:
    if diagnosis.verdict is Verdict.INCONCLUSIVE:
        return missing(diagnosis).command
    if cause is not None and cause.remedy is not None and cause.remedy.text:
        how = tried(cause, others(diagnosis, cause))
        return whole_sentences(plain(cause.remedy.text), max(_FIX - len(how), _FIX // 2)).rstrip(".") + how
    if diagnosis.verdict is Verdict.ROUNDING is diagnosis.expected:
        return "nothing to do: a port may round in another order"
    found = {m.metric: m.value for m in diagnosis.impact}
    if diagnosis.verdict is Verdict.ROUNDING and {"justified_rtol", "justified_atol"} <= found.keys():
        rtol, atol = (f"{found[f'justified_{name}']:.2g}" for name in ("rtol", "atol"))
        return f"accept it; rounding alone justifies rtol={rtol}, atol={atol} in a test"
    if has_more(diagnosis) or has_more_beside(diagnosis):
        more = list(dict.fromkeys(place(slot.partition("@")[0]) for slot, c in diagnosis.outputs if c.only))
        shown = ", ".join(more[:_NAMED]) + (f" and {len(more) - _NAMED} more" if len(more) > _NAMED else "")
        return f"end both sides alike, then compare again; more is: {shown}"
    return _ADVICE[diagnosis.verdict]


def _next(diagnosis: Diagnosis, cause: Cause | None, mended: Cause | None) -> str:
    """What else to run, as the end of a fix that no experiment speaks for."""
    if not _is_another_program(diagnosis, cause):
        return ""
    advice = diagnosis.verdict is Verdict.INCONCLUSIVE or mended is not None
    return f"{'. If' if advice else '; if'} one is a port of the other, `whydiff port` compares them layer by layer"


def _causes(acting: list[Cause]) -> tuple[str, ...]:
    rest = len(acting) - _CAUSES
    return (*map(_ranked, acting[:_CAUSES]), *([f"and {rest} more"] if rest > 0 else []))


def _ranked(cause: Cause) -> str:
    at = f", at {place(cause.site)}" if cause.site else ""
    if may_follow(cause):
        return (
            f"{sentence(cause)} ({plain(cause.code)}, may only follow){at}: it comes after Python was given a number of "
            f"{place(cause.after)}, which differed; mend the rest, capture and compare again: what stays is a cause of its own"
        )
    return f"{sentence(cause)} ({plain(cause.code)}, {STANDING[cause.status]}){at}{cause_effect(cause)}"


def _is_another_program(diagnosis: Diagnosis, cause: Cause | None) -> bool:
    """Whether why two programs differ is not proven, and most of their ops have no counterpart."""
    if diagnosis.verdict not in (Verdict.SEMANTIC, Verdict.INCONCLUSIVE) or (cause and cause.status == "confirmed"):
        return False
    found = diagnosis.alignment
    if not (found.unpaired_reference and found.unpaired_candidate):
        return False
    return len(found.unpaired_reference) + len(found.unpaired_candidate) > len(found.pairs)


def _besides(diagnosis: Diagnosis, cause: Cause | None) -> str:
    """What limits the answer, each in a few words."""
    said = []
    for name, side in zip(("reference", "candidate"), diagnosis.sides, strict=True):
        if not side.complete:
            said.append(f"the recording of the {name} is incomplete")
        if side.observer.unchanged is False:
            said.append(f"looking at the {name} changed its numbers")
    said += dict.fromkeys(plain(side.observer.why) for side in diagnosis.sides if side.observer.why)
    silent = [name for name, side in zip(("reference", "candidate"), diagnosis.sides, strict=True) if side.silent]
    if silent and diagnosis.verdict is not Verdict.IDENTICAL:
        said.append(
            f"inside of the {' and the '.join(silent)} no op was seen: numpy and other libraries are not looked into"
        )
    left = (diagnosis.alignment.unpaired_reference, diagnosis.alignment.unpaired_candidate)
    for name, calls in zip(("reference", "candidate"), left, strict=True):
        if calls:
            said.append(f"{count(len(calls), 'extra op')} in the {name}")
    without_effect = {*map(anywhen, diagnosis.origins)} - {*map(anywhen, _acting(diagnosis.origins))}
    if without_effect and not _none_acts(diagnosis):
        said.append(f"{count(len(without_effect), 'place that changes', 'places that change')} no output")
    if diagnosis.origins and is_left(diagnosis):
        said.append("a difference is left after correcting each place")
    undecided = [] if cause is not None and _takes_all(cause) else _undecided(diagnosis, cause)
    if undecided:
        first = sentence(undecided[0])
        first = first if len(first) <= _FIX else plain(undecided[0].name.replace("-", " "))
        said.append(f"{len(undecided)} more that may act, undecided (-v): {first} ({plain(undecided[0].code)})")
    ruled_out = sum(c is not cause and (c.inert or c.status == "refuted") for c in diagnosis.causes)
    if ruled_out:
        said.append(f"{count(ruled_out, 'other suspect')} ruled out")
    kinds = sum(one.code != "nothing returned" for one in diagnosis.not_compared)
    if kinds:
        said.append(f"{count(kinds, 'kind of value', 'kinds of values')} not compared")
    return "; ".join(said)
