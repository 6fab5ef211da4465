"""One style for numbers, tensors and counts, shared by every report that people read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal

from whydiff.errors import harmless
from whydiff.records import ByTolerance, Comparison, Experiment, Measurement, Side, Site, Status

_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}
_SPEC = re.compile(r"\b(bfloat|float|uint|int|complex)(\d+)(_\w+)?\[([\d, ]*)\]")
_TONES: dict[str, Literal["good", "mild"]] = {
    "identical": "good",
    "within tolerance": "good",
    "rounding": "good",
    "precision": "mild",
    "inconclusive": "mild",
}
_PLACE = re.compile(
    r"(?P<scope>.*):(?P<op>[^:#]+)#(?P<occurrence>\d+)(?:\.(?P<slot>[\w.\[\]]+))?(?P<rest>(?: \[\w+\]| @\w+ \d+)*)"
)
_METRICS = {
    "max_abs": "max abs error",
    "mean_abs": "mean abs error",
    "rel_l2": "relative L2 error",
    "max_rel": "max relative error",
    "max_ulp": "max ULP distance",
    "cosine": "cosine",
    "kl": "KL divergence",
    "kl_mean": "KL divergence, mean over positions (nats)",
    "kl_max": "KL divergence, largest (nats)",
    "top1_margin_flipped": "largest lead of a first choice that flips",
    "top1_margin_smallest": "smallest lead of a first choice",
    "perplexity_reference": "perplexity of the tokens read",
    "perplexity_change": "relative change of that perplexity",
    "first_flip": "first position with another first choice (-1: none)",
    "position_correlation": "rank correlation of error and position",
    "mean_abs_first_positions": "mean abs error at the first positions",
    "mean_abs_last_positions": "mean abs error at the last positions",
    "lifted_mean_abs_first_positions": "mean abs error at the first positions without rounding (float64)",
    "lifted_mean_abs_last_positions": "mean abs error at the last positions without rounding (float64)",
    "lifted_position_correlation": "rank correlation of error and position without rounding",
    "one_in": "mean abs error that it makes alone",
    "leave_one_out": "mean abs error that is left without it",
    "removed": "mean abs error that goes with it",
    "mean_abs_floor": "mean abs error that rounding alone may make",
    "justified_rtol": "rtol that rounding justifies",
    "justified_atol": "atol that rounding justifies",
}
_CHANGED = {"one_in": "elements that differ while it acts alone", "leave_one_out": "elements that differ without it"}
"""Of outputs that are ids."""
_SHARES = {
    "different": "elements that differ",
    "mismatched": "elements over the tolerance",
    "sign_flips": "elements of opposite sign",
    "nan_mismatch": "NaN on one side only",
    "inf_mismatch": "infinite on one side only",
    "top1_flips": "first choices that flip",
    "top5_changes": "sets of five first choices that change",
    "next_token_flips": "sequences with another next token",
}
_WHOLE = ("first_flip", "parts_at", "parts_at_generated")
_ALARMS = ("nan_mismatch", "inf_mismatch")
"""Named wherever they are not zero, because the errors are taken over finite pairs alone."""

_DENOMINATORS = ("", "elements", "abs(reference)", "nats", "position", "positions ranked", "tokens read", "sequences")
"""What the known metrics are divided by, as their words imply; any other ``per`` is shown."""

_COUNTED = ("elements", "positions", "rows", "tokens")
"""Denominators that make an unknown metric a share."""


def plain(text: str) -> str:
    """A string of the diagnosis, safe to show and with short tensors.

    Control characters and halves of surrogate pairs (a trace may come from a stranger) become visible
    escapes; ``float32[2,3]`` becomes ``f32[2,3]``.
    """
    return _SPEC.sub(lambda m: f"{_SHORT[m[1]]}{m[2]}{m[3] or ''}[{m[4].replace(' ', '')}]", harmless(text))


def site(value: Site) -> str:
    """A site as users read it; the root scope has no leading colon."""
    return plain(str(value).removeprefix(":"))


def tone(verdict: str) -> Literal["good", "mild", "bad"]:
    """How a verdict, or a study's result in one word, is coloured."""
    return _TONES.get(verdict, "bad")


def place(site: str) -> str:
    """A site as people name a place: ``model.norm: add (2nd), backward`` for ``model.norm:add#1.output [backward]``.

    A framework's mark of a private op (``_softmax``) is left off. What is no site (the name of a buffer, an attribute
    or a module) stays as it is.
    """
    found = _PLACE.fullmatch(site)
    if found is None:
        return plain(f"module {site}" if site.isdigit() else site)
    scope, op, occurrence, rest = found["scope"], found["op"].lstrip("_"), int(found["occurrence"]), found["rest"]
    slot = found["slot"]
    again = f" ({ordinal(occurrence + 1)})" if occurrence else ""
    if op == "return":  # no op of the user's: which of the values that the program gives back
        op = f"the returned value{f' {slot}' if slot and slot != 'output' else ''}"
    inside = re.sub(r"[\[\]@]", "", rest).replace("  ", " ").strip()
    return plain(f"{f'{scope}: ' if scope else ''}{op}{again}{f', {inside}' if inside else ''}")


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``11th``."""
    last = "th" if 10 < number % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{last}"


def clause(sentence: str) -> str:
    """A sentence as the rest of another one: no full stop, no leading ``because``, no capital."""
    text = plain(sentence).strip().rstrip(".").removeprefix("because ")
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def short(value: float) -> str:
    """A number in two digits, as people write it: ``0.56``, ``13``, ``291``, ``4.8e-07``."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"


def number(value: float | None) -> str:
    """``0``, ``1.3e-03``, ``nan``, ``inf``; an absent number is a dash."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    return "0" if value == 0 else f"{value:.1e}"


def percent(fraction: float) -> str:
    """A fraction of one as ``25.0 %``; never rounded to 0 % or to 100 % unless it is."""
    if not math.isfinite(fraction):
        return str(fraction)
    if 0 < fraction < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= fraction < 1:
        return "> 99.9 %"
    return f"{100 * fraction:.1f} %"


def count(n: int, noun: str, plural: str = "") -> str:
    """``1 call``, ``12 calls``, ``no calls``."""
    many = plural or noun + "s"
    return f"{n or 'no'} {noun if n == 1 else many}"


def bar(fraction: float, cells: int) -> str:
    """A bar of at most ``cells`` characters, in eighths; what is not zero is never invisible."""
    eighths = max(1, round(8 * cells * fraction)) if fraction > 0 else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def listed(items: Iterable[str], limit: int = 8) -> str:
    """Items joined by commas; past the limit the rest is counted, not dropped."""
    every = list(items)
    rest = len(every) - limit
    return ", ".join(every[:limit]) + (f" and {rest} more" if rest > 0 else "")


def metric(measurement: Measurement) -> str:
    """A metric's name in words, and what it is taken of where the words do not say it."""
    known = _METRICS.get(measurement.metric) or _SHARES.get(measurement.metric)
    if measurement.per == "choices":
        return _CHANGED.get(measurement.metric, measurement.metric)
    name = known or measurement.metric.replace("_", " ")
    implied = _DENOMINATORS if known else ("",)
    return plain(name if measurement.per in implied else f"{name} (of {measurement.per})")


def figure(measurement: Measurement) -> str:
    """A measurement's number: a percentage if it is a share of a number of things, else a number."""
    if measurement.metric in _WHOLE and math.isfinite(measurement.value):
        return str(int(measurement.value))
    known = measurement.metric in _METRICS
    share = measurement.metric in _SHARES or measurement.per == "choices" or (not known and measurement.per in _COUNTED)
    return percent(measurement.value) if share else number(measurement.value)


def different(comparison: Comparison) -> str:
    """The share of the elements that differ in at least one bit: ``25.0 %``, or a dash if not measured."""
    found = next((m for m in comparison.measurements if m.metric == "different"), None)
    return "–" if found is None else figure(found)


def note(comparison: Comparison) -> str:
    """What the numbers do not say: the reason, and NaN or infinity where only one side has it."""
    alarms = [f"{_SHARES[m.metric]}: {figure(m)}" for m in comparison.measurements if m.metric in _ALARMS and m.value]
    reason = plain(comparison.reason)
    if comparison.status == "not_compared":
        reason = f"not compared: {reason}"
    return "; ".join([*([reason] if reason else []), *alarms])


def bounds(tolerance: ByTolerance) -> str:
    """``rtol=1.3e-06, atol=9e-07``; empty where there is no tolerance."""
    if tolerance.rtol is None or tolerance.atol is None:
        return ""
    return f"rtol={tolerance.rtol:.2g}, atol={tolerance.atol:.2g}"


MARKS: dict[Status, str] = {"confirmed": "✓", "located": "→", "refuted": "✗", "inconclusive": "?"}
"""Before a cause, by its status."""


def outcome(experiment: Experiment) -> str:
    """What was changed on which side, what came out, and the difference before and after."""
    done = listed((plain(str(i)) for i in experiment.interventions), 2) or "no intervention"
    if experiment.direction == "put_in":
        done = f"{done} in the reference"
    change = ""
    if experiment.before is not None and experiment.after is not None:
        what = "share that differs" if experiment.choices else "mean abs error"
        change = f" ({what} {number(experiment.before)} → {number(experiment.after)})"
    return f"{experiment.method} with {done}: {plain(experiment.outcome)}{change}"


def ranges(values: Iterable[object], most: int | None = None) -> str:
    """Whole numbers sorted and in short, ``0–3, 5, 6, 9``; other things as they are.

    Args:
        values: numbers, or their texts.
        most: runs to name; of more only the first ones, the last number and how many there are.
    """
    every = list(dict.fromkeys(map(str, values)))
    if not all(value.isdigit() for value in every):
        return ", ".join(every)
    runs: list[list[int]] = []
    for value in sorted(map(int, every)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    texts = [str(a) if a == b else f"{a}–{b}" if b > a + 1 else f"{a}, {b}" for a, b in runs[:most]]
    cut = f", … {runs[-1][1]} ({len(every)} in all)" if most is not None and len(runs) > most else ""
    return ", ".join(texts) + cut


def observer(side: Side) -> tuple[str, bool]:
    """The observer check of one side in words, and whether it is proven that looking changed nothing."""
    check = side.observer
    repeats = {
        True: "two plain runs agree bit for bit",
        False: "two plain runs DIFFER (nondeterminism)",
        None: "whether it repeats itself was not checked",
    }[check.deterministic]
    changed = {
        True: "the captured run agrees with the plain one bit for bit",
        False: "capturing CHANGED the numbers (observer effect)",
        None: "whether capturing changes it was not checked",
    }[check.unchanged]
    if check.deterministic is check.unchanged is None:
        return f"not checked: {plain(check.note) or 'no reason was recorded'}", False
    over = f" ({count(check.outputs, 'output')} compared)" if check.outputs else ""
    note = f"; {plain(check.note)}" if check.note else ""
    return f"{repeats}; {changed}{over}{note}", bool(check.deterministic and check.unchanged)
