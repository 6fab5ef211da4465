"""What changes in the outputs, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator

from whydiff.records import Cause, Comparison, Diagnosis, Measurement, Verdict
from whydiff.report.words import count, ordinal, percent, plain, short

_SEEN = 1e-6
"""Nats of KL below which no digits are shown."""
NOTHING = "neither side returned anything"


def effect(diagnosis: Diagnosis) -> str:
    """The share that changes, the largest change, choices that flip, KL and where generated tokens part."""
    outputs = [comparison for _, comparison in diagnosis.outputs]
    differing = [c for c in outputs if c.status == "differs"]
    compared = [c for c in outputs if c.status != "not_compared"]
    if not compared:
        return f"{NOTHING}, and no value could be compared" if returned_nothing(diagnosis) else "no output was compared"
    if not differing:
        lone = {side: sum(c.only == side for c in outputs) for side in ("reference", "candidate")}
        asides = [f"only the {side} has {count(n, 'more', 'more')}" for side, n in lone.items() if n]
        left = len(outputs) - len(compared) - sum(lone.values())
        asides += [f"{count(left, 'other')} could not be compared"] if left else []
        more = sum(one.count for one in diagnosis.not_compared if one.code == "read out")
        asides += [f"{count(more, 'number was', 'numbers were')} read out on one side only"] if more else []
        aside = "".join(f"; {one}" for one in asides)
        if returned_nothing(diagnosis):
            return f"{NOTHING}; of what each computed last, {_values(len(compared), 'is', 'are')} bit-equal{aside}"
        return f"none: {_all(len(compared))} bit-equal{where_compared(diagnosis)}{aside}"
    if returned_nothing(diagnosis):
        return f"{NOTHING}; of what each computed last, {_values(len(differing), 'differs', 'differ')}"
    found = {m.metric: m for m in diagnosis.impact}
    parts = [_size(diagnosis, found, outputs, differing), *_special(differing), *_choices(found)]
    return "; ".join(part for part in parts if part)


def has_more(diagnosis: Diagnosis) -> str:
    """Which side returns something more, where all that both return is bit-equal; else empty."""
    outputs = [comparison for _, comparison in diagnosis.outputs]
    if not any(c.status == "agrees" for c in outputs) or any(c.status != "agrees" and not c.only for c in outputs):
        return ""
    return _more(diagnosis)


def has_more_beside(diagnosis: Diagnosis) -> str:
    """Which side returns something more, which makes the pair incomparable, where not all else is bit-equal; else empty."""
    return _more(diagnosis) if diagnosis.verdict is Verdict.INCOMPARABLE and not has_more(diagnosis) else ""


def _more(diagnosis: Diagnosis) -> str:
    sides = {c.only for _, c in diagnosis.outputs if c.only}
    return "each side has something more" if len(sides) > 1 else f"only the {sides.pop()} has more" if sides else ""


def where_compared(diagnosis: Diagnosis) -> str:
    """The end of a sentence about all outputs where only a part of them was compared; else empty."""
    return " where it was compared" if any(one.code == "part" for one in diagnosis.not_compared) else ""


def returned_nothing(diagnosis: Diagnosis) -> bool:
    """Whether neither side returned anything, so that what was written last stands for the outputs."""
    return any(one.code == "nothing returned" for one in diagnosis.not_compared)


def cause_effect(cause: Cause) -> str:
    """What one cause does to the outputs by itself, as the end of a sentence."""
    alone = next((m.value for m in cause.effect if m.metric == "one_in"), None)
    if alone is None or not math.isfinite(alone):
        return ""
    whole = next((e.before for e in cause.experiments if e.before and math.isfinite(e.before)), None)
    elements = max((e.elements for e in cause.experiments if e.choices), default=0)
    told = [f"{round(value * elements):,}" if elements else short(value) for value in (alone, whole or 0.0)]
    beside = f", and all together {'' if elements else 'by '}{told[1]}" if whole and told[0] != told[1] else ""
    if elements:
        return f": alone, it changes {told[0]} of {elements:,} elements{beside}"
    return f": alone, it moves the outputs by {told[0]} on average{beside}"


def _values(n: int, one: str, several: str) -> str:
    return f"{count(n, 'value')} {one if n == 1 else several}"


def _all(n: int) -> str:
    return "the output is" if n == 1 else f"all {n} outputs are"


def _size(
    diagnosis: Diagnosis, found: dict[str, Measurement], outputs: list[Comparison], differing: list[Comparison]
) -> str:
    """Of the scores where an output ranks alternatives, else of the worst output."""
    scored = found["top1_margin_smallest"].per if "top1_margin_smallest" in found else ""
    scores = next((comparison for slot, comparison in diagnosis.outputs if slot == scored), None)
    others = len(differing) - (scores in differing)
    if scores is not None and scores.status == "differs":
        more = f" ({count(others, 'more output differs', 'more outputs differ')})" if others else ""
        return f"{_share(scores.value('different'), _noun(found, scored), scores.value('max_abs'), '')}{more}"
    share, largest = found.get("different"), found.get("max_abs")
    many = f"{len(differing)} of {len(outputs)} outputs differ" if len(outputs) > 1 else ""
    if share is None or largest is None or not share.value:
        reshaped = next((f"the output has {plain(c.reason)}" for c in differing if c.other_shape and not many), "")
        return many or reshaped or next((plain(c.reason) for c in differing if c.reason), "") or "the output differs"
    if many:
        return f"{many}{_most(largest.value, _relative(found))}"
    return _share(share.value, _noun(found, share.per), largest.value, _relative(found))


def _share(share: float | None, what: str, largest: float | None, size: str) -> str:
    most = _most(largest, size)
    if not share or share == 1:
        return f"all {what} change{most}" if share else f"the {what} change{most}"
    return f"{percent(share)} of the {what} change{most}"


def _most(largest: float | None, size: str) -> str:
    return f", at most by {short(largest)}{size}" if largest else ""


def _noun(found: dict[str, Measurement], slot: str) -> str:
    if "top1_flips" in found:
        return "logits" if _tokens(found) else "numbers"
    name = plain(slot.partition("@")[0].removeprefix("output").lstrip("."))
    return f"numbers of {name}" if name and not name.isdigit() else "numbers"


def _tokens(found: dict[str, Measurement]) -> bool:
    """Whether an output holds a model's scores of tokens; else its rows may be scores of something."""
    flips = found.get("top1_flips")
    return flips is not None and flips.per == "positions"


def _relative(found: dict[str, Measurement]) -> str:
    relative = found.get("rel_l2")
    if relative is None or not math.isfinite(relative.value) or _tokens(found):
        return ""
    if relative.value >= 1:
        return f" ({short(relative.value)} times their size)"
    return f" ({percent(relative.value) if relative.value >= 0.001 else short(relative.value)} of their size)"


def _special(differing: list[Comparison]) -> Iterator[str]:
    names = (("nan_mismatch", "NaN"), ("inf_mismatch", "infinity"))
    found = [name for metric, name in names if any(c.value(metric) for c in differing)]
    if found:
        yield f"{' and '.join(found)} on one side only"


def _choices(found: dict[str, Measurement]) -> Iterator[str]:
    parts = found.get("parts_at")
    if parts is not None:
        of = plain(parts.per.partition(",")[2])
        at = f"the tokens part at position {int(parts.value)}{of}, counted from 0 with the prompt"
        number = found.get("parts_at_generated")
        yield f"{at} if it is returned" if number is None else f"{at}: the {ordinal(int(number.value))} generated one"
    flips = found.get("top1_flips")
    if flips is not None:
        if not _tokens(found):  # of numbers that need not be scores, the words of scores say too much
            yield _largest(flips.value)
            return
        first = found.get("first_flip")
        at = f", first at position {int(first.value)} (from 0)" if first is not None and first.value >= 0 else ""
        if flips.value == 1:
            yield "every top-1 token flips"
        else:
            yield f"{percent(flips.value)} of the top-1 tokens flip{at}" if flips.value else "no top-1 token flips"
    divergence = found.get("kl_mean")
    if divergence is not None and math.isfinite(divergence.value):
        yield "KL < 1e-06" if divergence.value < _SEEN else f"KL {short(divergence.value)}"


def _largest(flips: float) -> str:
    """Of rows that may be scores: in how many another number is the largest."""
    if flips in (0, 1):
        return "in every row another number is the largest" if flips else "the largest of each row stays"
    return f"in {percent(flips)} of the rows another number is the largest"
