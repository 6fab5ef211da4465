"""The answer in five lines: verdict, where, why, proof, what to do."""

from __future__ import annotations

from typing import get_args

from whydiff.records import Cause, Diagnosis, Direction, Verdict
from whydiff.report.words import count, listed, observer, outcome, plain, site

MEANING = {
    Verdict.IDENTICAL: "zero bits differ in everything that was paired",
    Verdict.ROUNDING: "the same computation, rounded in another order",
    Verdict.PRECISION: "the same formula, carried out at another precision",
    Verdict.SEMANTIC: "another function is computed",
    Verdict.UNSTABLE: "a run overflows, cancels or makes NaN",
    Verdict.NONDETERMINISTIC: "a run differs from itself",
    Verdict.INCOMPARABLE: "the paired values are not counterparts",
    Verdict.INCONCLUSIVE: "the evidence does not decide",
}
_ADVICE = {
    Verdict.IDENTICAL: "nothing",
    Verdict.ROUNDING: "accept it; a check may allow it with --allow rounding",
    Verdict.PRECISION: "choose one precision deliberately for both sides",
    Verdict.SEMANTIC: "make both sides agree at the first origin, then compare again",
    Verdict.UNSTABLE: "keep the values in range at the first origin, then compare again",
    Verdict.NONDETERMINISTIC: "make each run repeat itself (seeds, deterministic kernels) and compare again",
    Verdict.INCOMPARABLE: "make both sides run the same program on the same inputs, then compare again",
}


def answer(diagnosis: Diagnosis) -> tuple[tuple[str, str], ...]:
    """Five (label, sentence) pairs. They are complete for every verdict, also where nothing differs."""
    return (
        ("verdict", _verdict(diagnosis)),
        ("where", _where(diagnosis)),
        ("why", _why(diagnosis)),
        ("proof", _proof(diagnosis)),
        ("do", _advice(diagnosis)),
    )


def best(diagnosis: Diagnosis) -> Cause | None:
    """The cause that the answer names: the first that is not refuted and not inert on this input."""
    return next((c for c in diagnosis.causes if c.status != "refuted" and not c.inert), None)


def remedy_code(diagnosis: Diagnosis) -> str:
    """Code to paste for the answer's remedy; empty if there is none."""
    cause = best(diagnosis)
    return cause.remedy.code if cause and cause.remedy else ""


def status(cause: Cause) -> str:
    """A cause's status in words: ``confirmed``, ``starts here: …``, ``refuted``, ``inconclusive because …``, and inertness."""
    if cause.status == "located":
        return f"starts here: {_clause(cause.reason)}" if cause.reason else "starts here"
    reason = f" because {_clause(cause.reason)}" if cause.reason and cause.status != "confirmed" else ""
    return f"{cause.status}{reason}{'; inert on this input' if cause.inert else ''}"


def title(cause: Cause) -> str:
    """``PR001 state-cast-to-lower-precision at model.rotary_emb.inv_freq``."""
    return plain(f"{cause.code} {cause.name}" + (f" at {cause.site}" if cause.site else ""))


def _verdict(diagnosis: Diagnosis) -> str:
    if diagnosis.verdict is Verdict.INCONCLUSIVE:
        return f"inconclusive because {_clause(diagnosis.reason or MEANING[diagnosis.verdict])}"
    return f"{diagnosis.verdict} – {_clause(diagnosis.reason or MEANING[diagnosis.verdict])}"


def _where(diagnosis: Diagnosis) -> str:
    pairs = len(diagnosis.alignment.pairs)
    if diagnosis.origins:
        first = diagnosis.origins[0]
        more = "the only origin" if len(diagnosis.origins) == 1 else f"first of {len(diagnosis.origins)} origins"
        text = f"{site(first.site)} ({first.kind}; {more})"
    else:
        text = f"no origin in {count(pairs, 'paired call')}" if pairs else "no call could be paired"
        cause = best(diagnosis)
        if diagnosis.verdict is Verdict.IDENTICAL:
            text = f"nowhere: {text}"
        elif cause is not None and cause.site:
            text = f"{plain(cause.site)} ({text})"
        else:
            text = f"not found: {text}"
    left = [(len(diagnosis.alignment.unpaired_reference), "unpaired in the reference")]
    left += [(len(diagnosis.alignment.unpaired_candidate), "unpaired in the candidate")]
    gaps = [f"{n} {what}" for n, what in left if n]
    gaps += [
        f"the {name} is incomplete"
        for name, side in zip(("reference", "candidate"), diagnosis.sides, strict=True)
        if not side.complete
    ]
    if diagnosis.not_compared:
        gaps.append(f"{count(len(diagnosis.not_compared), 'kind')} of things not compared (below)")
    return "; ".join([text, *gaps])


def _why(diagnosis: Diagnosis) -> str:
    cause = best(diagnosis)
    others = [c for c in diagnosis.causes if c is not cause]
    live = [c for c in others if not c.inert and c.status != "refuted"]
    also = listed((f"{title(c)} ({c.status})" for c in live), 2)
    idle = len(others) - len(live)
    if idle:
        dismissed = f"{count(idle, 'other')} refuted or inert on this input (below)"
        also = f"{also}; {dismissed}" if also else dismissed
    if cause is None:
        nothing = "nothing to explain" if diagnosis.verdict is Verdict.IDENTICAL else "no known cause fits"
        return f"{nothing}; {also}" if also else nothing
    return f"{title(cause)} – {status(cause)}" + (f"; also {also}" if also else "")


def _proof(diagnosis: Diagnosis) -> str:
    cause = best(diagnosis)
    experiments = cause.experiments if cause else ()
    wanted = "confirmed" if cause and cause.status == "located" else cause and cause.status
    deciding = [e for e in experiments if e.status == wanted]
    parts = []
    if deciding:
        firsts = {e.direction: e for e in reversed(deciding)}
        parts += [outcome(firsts[way]) for way in get_args(Direction) if way in firsts]
    elif diagnosis.verdict is not Verdict.IDENTICAL:
        parts.append("no experiment decided")
    if diagnosis.accounted is not None and diagnosis.origins:
        leaves = "no bit of difference" if diagnosis.accounted else "a difference"
        parts.append(f"resynchronising at the origins leaves {leaves}")
    for name, side in zip(("reference", "candidate"), diagnosis.sides, strict=True):
        words, proven = observer(side)
        if False in (side.observer.deterministic, side.observer.unchanged) or (diagnosis.verdict is Verdict.IDENTICAL):
            parts.append(f"{name}: {words}" if not proven else f"{name}: plain and captured runs agree")
    return "; ".join(parts)


def _advice(diagnosis: Diagnosis) -> str:
    cause = best(diagnosis)
    if cause and cause.remedy and cause.remedy.text:
        return plain(cause.remedy.text)
    if diagnosis.verdict is not Verdict.INCONCLUSIVE:
        return _ADVICE[diagnosis.verdict]
    for name, side in zip(("reference", "candidate"), diagnosis.sides, strict=True):
        if not side.complete:
            return f"capture the {name} again to its end, then compare again"
    if any(side.source != "live" for side in diagnosis.sides):
        return "give the programs (FILE.py:name), or traces captured with --payloads all, and compare again"
    return f"read `whydiff cause {cause.code}` for the evidence it needs" if cause else "try another input"


def _clause(sentence: str) -> str:
    """A sentence as the rest of another one: no full stop, no leading ``because``, no capital."""
    text = plain(sentence).strip().rstrip(".").removeprefix("because ")
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text
