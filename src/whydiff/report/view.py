"""From a Diagnosis to the report's data: the five lines, then every section, then what was not looked at.

Nothing here renders. Nothing is dropped either: what is summarised is counted, and an empty part says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from whydiff.errors import collecting, guarded
from whydiff.records import Alignment, Cause, Diagnosis, Experiment
from whydiff.report._growth import growth_blocks
from whydiff.report._origins import MOST, origin_blocks
from whydiff.report.answer import answer, anywhen, is_left
from whydiff.report.blocks import Block, Code, Section, Table, Text, Tone, View
from whydiff.report.proof import tried
from whydiff.report.words import (
    MARKS,
    clause,
    count,
    different,
    figure,
    listed,
    metric,
    note,
    number,
    observer,
    outcome,
    plain,
    ranges,
)

_TONES: dict[str, Tone] = {"confirmed": "good", "located": "", "refuted": "dim", "inconclusive": ""}


def build(diagnosis: Diagnosis, *, verbose: bool = False) -> View:
    """The whole report as data; a section that raises says so in its place.

    Args:
        diagnosis: the document.
        verbose: list every origin and depth with its evidence instead of grouping and summarising.
    """
    made: dict[str, Callable[[], tuple[Block, ...]]] = {
        "Notes": lambda: _notes(diagnosis),
        "Impact on the outputs": lambda: _impact(diagnosis, verbose),
        "Growth by depth (nothing corrected on the way)": lambda: _growth(diagnosis, verbose),
        f"Where a difference starts ({_starts(diagnosis)})": lambda: _origins(diagnosis, verbose),
        f"Causes ({len(diagnosis.causes)})": lambda: _causes(diagnosis, verbose),
        "Environment changes": lambda: _environment(diagnosis),
        "The two runs, and whether looking changed them": lambda: _sides(diagnosis),
        "Which calls correspond": lambda: _alignment(diagnosis.alignment, verbose),
        "Not compared": lambda: _not_compared(diagnosis, verbose),
    }
    sections = (Section(title, _unless_it_fails(make)) for title, make in made.items())
    filled = tuple(section for section in sections if section.blocks)
    short = answer(diagnosis)
    return View(verdict=short.verdict, answer=short.lines(), remedy=short.code, sections=filled)


def _unless_it_fails(make: Callable[[], tuple[Block, ...]]) -> tuple[Block, ...]:
    blocks: tuple[Block, ...] = ()
    with collecting(), guarded("a section") as guard:
        blocks = make()
    return blocks if not guard.error else (Text(plain(f"This section failed: {guard.error}"), tone="bad"),)


def _notes(diagnosis: Diagnosis) -> tuple[Block, ...]:
    why = (f"why the verdict is {diagnosis.verdict}: {clause(diagnosis.reason)}",) if diagnosis.reason else ()
    return tuple(Text(sentence) for sentence in (*why, *map(plain, diagnosis.notes)))


_OUTPUTS = 4
"""Outputs shown one by one before the rest is counted."""


def _impact(diagnosis: Diagnosis, verbose: bool) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if diagnosis.impact:
        rows = tuple((metric(m), figure(m)) for m in diagnosis.impact)
        blocks.append(Table(("metric", "value"), rows, numeric=("value",)))
    if diagnosis.outputs:
        shown = diagnosis.outputs if verbose else diagnosis.outputs[:_OUTPUTS]
        outputs = tuple(
            (
                plain(name),
                c.status.replace("_", " "),
                number(c.value("max_abs")),
                number(c.value("mean_abs")),
                number(c.value("rel_l2")),
                different(c),
                note(c),
            )
            for name, c in shown
        )
        columns = ("output", "status", "max abs", "mean abs", "rel L2", "different", "note")
        blocks.append(Table(columns, outputs, numeric=columns[2:-1]))
        rest = diagnosis.outputs[len(shown) :]
        if rest:
            differ = sum(c.status == "differs" for _, c in rest)
            blocks.append(Text(f"{differ} of {len(rest)} further outputs differ (all of them with --verbose)."))
    return tuple(blocks) or (Text("No output was compared."),)


def _growth(diagnosis: Diagnosis, verbose: bool) -> tuple[Block, ...]:
    if diagnosis.growth:
        return growth_blocks(diagnosis.growth, verbose)
    return (Text("Not measured."),) if diagnosis.origins else ()


def _starts(diagnosis: Diagnosis) -> str:
    """How many origins, and at how many places of the program (in how many steps, on how many ways) they are."""
    places = len({anywhen(origin) for origin in diagnosis.origins})
    found = len(diagnosis.origins)
    return str(found) if places == found else f"{found} at {count(places, 'place', 'places')}"


def _origins(diagnosis: Diagnosis, verbose: bool) -> tuple[Block, ...]:
    if not diagnosis.origins:
        return (Text("None."),)
    blocks = origin_blocks(diagnosis.origins, verbose)
    if diagnosis.accounted is None:
        return (*blocks, Text("Whether these places account for the whole difference was not checked."))
    missing = "something is missing" if is_left(diagnosis) else "the proven cause takes it away as well"
    left = "the outputs agree bit for bit" if diagnosis.accounted else f"a difference is left: {missing}"
    tone: Tone = "bad" if is_left(diagnosis) else "good"
    return (*blocks, Text(f"After correcting each place {left}.", tone=tone))


def _causes(diagnosis: Diagnosis, verbose: bool) -> tuple[Block, ...]:
    if not diagnosis.causes:
        return (Text("None."),)
    return tuple(block for cause in diagnosis.causes for block in _cause(cause, verbose))


def _cause(cause: Cause, verbose: bool) -> tuple[Block, ...]:
    mark = MARKS[cause.status]
    tone: Tone = "dim" if cause.inert else _TONES[cause.status]
    blocks: list[Block] = [Text(f"{mark} {title(cause)}: {cause.verdict}, {status(cause)}", tone=tone)]
    for evidence in cause.evidence:
        data = ", ".join(f"{key} = {value}" for key, value in evidence.data.items()) if verbose else ""
        blocks.append(Text(plain(f"evidence: {evidence.statement}" + (f" [{data}]" if data else "")), 1))
    blocks.extend(Text(line, 1) for experiment in cause.experiments for line in _experiment(experiment))
    if not cause.experiments:
        proposed = listed((plain(str(i)) for i in cause.interventions), 3)
        blocks.append(Text("experiment: none was run" + (f" (proposed: {proposed})" if proposed else ""), 1))
    if cause.effect:
        blocks.append(Text("effect: " + ", ".join(f"{metric(m)} {figure(m)}" for m in cause.effect), 1))
    if cause.remedy:
        blocks.append(Text(f"remedy{tried(cause)}: {plain(cause.remedy.text)}", 1))
        if cause.remedy.code:
            blocks.append(Code(plain(cause.remedy.code)))
    blocks.append(Text(f"read more: whydiff cause {plain(cause.code)}", 1, tone="dim"))
    return tuple(blocks)


def status(cause: Cause) -> str:
    """A cause's status in words: ``confirmed``, ``starts here: …``, ``refuted``, ``inconclusive because …``, inertness."""
    if cause.status == "located":
        return f"starts here: {clause(cause.reason)}" if cause.reason else "starts here"
    reason = f" because {clause(cause.reason)}" if cause.reason and cause.status != "confirmed" else ""
    return f"{cause.status}{reason}{'; no effect here' if cause.inert else ''}"


def title(cause: Cause) -> str:
    """``ST003 state-cast at model.rotary_emb.inv_freq``."""
    return plain(f"{cause.code} {cause.name}" + (f" at {cause.site}" if cause.site else ""))


def _experiment(experiment: Experiment) -> tuple[str, ...]:
    return (f"experiment ({experiment.status}): {outcome(experiment)}", f"predicted: {plain(experiment.prediction)}")


def _environment(diagnosis: Diagnosis) -> tuple[Block, ...]:
    if not diagnosis.environment_changes:
        return (Text("None: both runs saw the same versions, hardware, flags and variables."),)
    rows = tuple(tuple(map(plain, change)) for change in diagnosis.environment_changes)
    return (Table(("where", "reference", "candidate"), rows),)


def _sides(diagnosis: Diagnosis) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for name, side in zip(("reference", "candidate"), diagnosis.sides, strict=True):
        framework = plain(f"{side.framework}, {side.level} level")
        blocks.append(Text(f"{name}: {plain(side.source)} ({framework}, {count(side.calls, 'call')})"))
        if not side.complete:
            blocks.append(Text(f"INCOMPLETE: {plain(side.note) or 'no reason was recorded'}", 1, tone="bad"))
        elif side.note:
            blocks.append(Text(plain(side.note), 1))
        words, proven = observer(side)
        broken = False in (side.observer.deterministic, side.observer.unchanged)
        blocks.append(Text(words, 1, tone="good" if proven else "bad" if broken else ""))
    return tuple(blocks)


def _alignment(alignment: Alignment, verbose: bool) -> tuple[Block, ...]:
    how = Counter(pair.how for pair in alignment.pairs)
    ways = ", ".join(f"{n} by {plain(name)}" for name, n in how.most_common())
    blocks: list[Block] = [Text(f"{count(len(alignment.pairs), 'pair')}" + (f": {ways}" if ways else ""))]
    left = (alignment.unpaired_reference, alignment.unpaired_candidate)
    for name, indices in zip(("reference", "candidate"), left, strict=True):
        calls = f" (number {ranges(indices)})" if indices else ""
        blocks.append(
            Text(
                f"without a counterpart, in the {name}: {count(len(indices), 'call')}{calls}",
                tone="bad" if indices else "",
            )
        )
    views = f"{alignment.views_reference} in the reference, {alignment.views_candidate} in the candidate"
    blocks.append(Text(f"views (looked through, never paired): {views}"))
    if alignment.renamed:
        limit = len(alignment.renamed) if verbose else 6
        pairs = listed((plain(f"{here} ↔ {there}") for here, there in alignment.renamed), limit)
        blocks.append(Text(f"renamed: {pairs}"))
    return tuple(blocks)


def _not_compared(diagnosis: Diagnosis, verbose: bool) -> tuple[Block, ...]:
    counts = diagnosis.not_compared
    if not counts:
        return (Text("Nothing was left out."),)
    shown = counts if verbose else counts[:MOST]
    rows = tuple(
        (
            plain(c.what),
            str(c.count),
            plain(c.reason),
            listed(map(plain, c.examples), len(c.examples) if verbose else 3),
        )
        for c in shown
    )
    table = Table(("what", "count", "because", "for example"), rows, numeric=("count",))
    if len(shown) == len(counts):
        return (table,)
    rest = f"{count(len(counts) - len(shown), 'more row')} ({sum(c.count for c in counts[len(shown) :])} in all)"
    return (table, Text(f"{rest}; verbose shows them."))
