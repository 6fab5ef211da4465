"""The document of two logs of log-probabilities, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from whydiff.numbers.tolerance import LOGPROB_NOISE
from whydiff.records import Count, Verdict
from whydiff.report.blocks import Bar, Block, Chart, Lines, Section, Table, Text
from whydiff.report.json import encode
from whydiff.report.words import count, number, percent, plain
from whydiff.studies.base import Study, headline
from whydiff.studies.logprobs.fields import Fields
from whydiff.studies.logprobs.results import Noise, Outliers, Result, Stale
from whydiff.studies.logprobs.statistics import Bin, Statistics

_COLUMNS = ("tokens", "mean log r", "mean |log r|", "max |log r|", "k3", "clipped")


@dataclass(frozen=True, slots=True, repr=False)
class LogprobComparison(Study):
    """Two logs, compared.

    Attributes:
        reference, candidate: the engine's file and the trainer's.
        verdict: the most severe one of what was found; else what the noise amounts to.
        results: one for each test, in the order in which they were made.
        statistics: of the paired tokens as they are.
        sequences: that were paired.
        paired_by: ``id`` or ``order``.
        fields_read: the columns that were read, of both files.
        not_paired: what was left out, counted.
    """

    title: ClassVar[str] = "logprobs"
    reference: str
    candidate: str
    verdict: Verdict
    results: tuple[Result, ...]
    statistics: Statistics
    sequences: int
    paired_by: str
    fields_read: tuple[Fields, Fields]
    not_paired: tuple[Count, ...] = ()

    @property
    def found(self) -> tuple[Result, ...]:
        """What is wrong, in the order of the tests; a scatter that nothing explains is one."""
        return tuple(one for one in self.results if one.found)

    @property
    def word(self) -> str:
        """The verdict."""
        return str(self.verdict)

    def result(self, test: str) -> Result:
        """The result of a test by its name.

        Raises:
            KeyError: there is none.
        """
        return {one.test: one for one in self.results}[test]

    def fields(self) -> dict[str, Any]:
        """The record's fields, and the name of every test."""
        document: dict[str, Any] = encode(self)
        for data, one in zip(document["results"], self.results, strict=True):
            data["test"] = one.test
        return document

    def answer(self) -> Lines:
        """The answer in five labelled sentences."""
        named = self.found or tuple(one for one in self.results if isinstance(one, Noise) and one.tested)
        says = "; ".join(one.says() for one in named) or "too few tokens to tell"
        all_ = self.statistics.all
        by = "id" if self.paired_by == "id" else "their order"
        left = sum(one.count for one in self.not_paired)
        where = f"{count(all_.tokens, 'token')} of {count(self.sequences, 'sequence')}, paired by {by} and token"
        low, high = self.statistics.bounds
        effect = (
            f"KL {number(all_.k3)} nats a token (k3), largest |log r| {number(all_.max_abs)}; {percent(all_.clipped)} of "
            f"the ratios outside {low:g} to {high:g}; effective sample size {percent(self.statistics.effective)}"
        )
        return (
            headline(self.word, says),
            ("where", plain(where + (f"; {left} sequences or tokens left out" if left else ""))),
            ("effect", effect),
            ("proof", plain(_proof(self.results))),
            ("fix", plain("; ".join(dict.fromkeys(one.fix() for one in named)) or "log more tokens")),
        )

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """Every test, the statistics, the ratio by position and by entropy, what was read and left out."""
        left = tuple(Text(plain(f"{one.count} {one.what}: {one.reason}")) for one in self.not_paired)
        read = tuple(
            Text(plain(f"{name}: " + ", ".join(f"{role} = {column}" for role, column in one.found().items())))
            for name, one in zip((self.reference, self.candidate), self.fields_read, strict=True)
        )
        parts = self.statistics
        return (
            Section("Tests", (_tests(self.results, verbose),)),
            Section("Ratio r = trainer / engine", _ratio(parts)),
            Section("Noise by position", _noise(self.results)),
            Section("By position", _bins("position", parts.by_position)),
            Section("By the engine's entropy", _bins("entropy", parts.by_entropy)),
            Section("By the engine's log-probability", _bins("log p", parts.by_probability)),
            Section("By step", _steps(self.results)),
            Section("Outliers", _outliers(self.results)),
            Section("Fields", read),
            Section("Left out", left),
        )


def _proof(results: Sequence[Result]) -> str:
    """What was measured of what was found: before and after it is taken back."""
    parts = []
    for one in results:
        measured = encode(one)
        if one.found and isinstance(measured.get("residual"), float):
            parts.append(
                f"{one.test}: {number(measured['before'])} → {number(measured['residual'])} once it is allowed for"
            )
        elif one.found and isinstance(measured.get("agreement"), float) and "by" in measured:
            parts.append(f"{one.test}: correlation {measured['before']:.3f} → {measured['agreement']:.3f}")
    noise = next((one for one in results if isinstance(one, Noise) and one.tested), None)
    if noise is not None and noise.level not in ("none", ""):
        level = "float8" if noise.level == "larger" else noise.level
        parts.append(f"what is left: {number(noise.size)} in log-odds; {level} explains {number(noise.allowed)}")
    tested = sum(one.tested for one in results)
    return "; ".join(parts) or f"{tested} tests, none of which found anything"


def _tests(results: Sequence[Result], verbose: bool) -> Table:
    rows = []
    for one in results:
        state = "found" if one.found else "–" if one.tested else "not tested"
        skipped = {"found", "tested", "examples", "inside", "steps", "sizes", "places", "names", "sequences"}
        measured = {k: v for k, v in encode(one).items() if k not in skipped and v not in (None, "", [])}
        text = ", ".join(f"{key} {_shown(value)}" for key, value in measured.items()) if one.tested else ""
        rows.append((one.test, state, plain(text if verbose or len(text) < 160 else f"{text[:157]}…")))
    return Table(("test", "result", "measured"), tuple(rows))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ratio(parts: Statistics) -> tuple[Block, ...]:
    all_, (low, high) = parts.all, parts.bounds
    lines = (
        f"mean log r {number(all_.mean)}, mean |log r| {number(all_.mean_abs)}, max |log r| {number(all_.max_abs)}",
        f"KL(engine || trainer) in nats a token: k1 {number(all_.k1)}, k2 {number(all_.k2)}, k3 {number(all_.k3)}",
        f"perplexity {parts.perplexity[0]:.4g} → {parts.perplexity[1]:.4g} ({100 * parts.perplexity_gap:+.2f} %)",
        f"effective sample size: {percent(parts.effective)} of the tokens, "
        f"{percent(parts.effective_sequences)} of the sequences (product of their ratios)",
        f"clipped at {low:g} and {high:g}: {percent(all_.clipped_low)} below, {percent(all_.clipped_high)} above",
        *((f"{count(parts.infinite, 'token')} with probability 0 on one side only",) if parts.infinite else ()),
    )
    histogram = Chart(
        title="Tokens by log r",
        kind="bar",
        x=tuple(f"{(low + high) / 2:+.2g}" for low, high, _ in parts.histogram),
        series=(("tokens", tuple(float(many) for _, _, many in parts.histogram)),),
        unit="tokens",
    )
    return (*(Text(line) for line in lines), *((histogram,) if parts.histogram else ()))


def _noise(results: Sequence[Result]) -> tuple[Block, ...]:
    """What is left of the difference at each position, beside what rounding explains."""
    found = next((one for one in results if isinstance(one, Noise) and one.sizes), None)
    if found is None:
        return ()
    floors = tuple((f"{name} explains", (size,) * len(found.sizes)) for name, size in LOGPROB_NOISE.items())
    chart = Chart(
        title="What is left, by position",
        kind="line",
        x=tuple(map(str, found.places)),
        series=(("log-odds change", tuple(size or None for size in found.sizes)), *floors),
        unit="robust deviation of the log-odds",
        log=True,
    )
    low, high = min(found.sizes), max(found.sizes)
    return (
        Text(
            f"robust change of the log-odds between {number(low)} and {number(high)} at {len(found.sizes)} places; "
            f"rounding to bfloat16 explains {number(LOGPROB_NOISE['bfloat16'])}"
        ),
        chart,
    )


def _bins(what: str, bins: Sequence[Bin]) -> tuple[Block, ...]:
    if len(bins) < 2:
        return ()
    largest = max(one.ratios.mean_abs for one in bins) or 1.0
    rows = tuple(
        (
            f"{one.low:.4g} … {one.high:.4g}",
            str(one.ratios.tokens),
            number(one.ratios.mean),
            number(one.ratios.mean_abs),
            number(one.ratios.max_abs),
            number(one.ratios.k3),
            percent(one.ratios.clipped),
            Bar(one.ratios.mean_abs / largest),
        )
        for one in bins
    )
    sizes = (
        ("mean |log r|", tuple(one.ratios.mean_abs for one in bins)),
        ("max |log r|", tuple(one.ratios.max_abs for one in bins)),
    )
    chart = Chart(title=f"|log r| by {what}", kind="line", x=tuple(f"{one.low:.3g}" for one in bins), series=sizes)
    return (chart, Table((what, *_COLUMNS, ""), rows, _COLUMNS))


def _steps(results: Sequence[Result]) -> tuple[Block, ...]:
    found = next((one for one in results if isinstance(one, Stale) and one.steps), None)
    if found is None:
        return ()
    largest = max(found.sizes) or 1.0
    rows = tuple((f"{s:g}", number(v), Bar(v / largest)) for s, v in zip(found.steps, found.sizes, strict=True))
    chart = Chart(
        title="Log-odds change by step of training",
        kind="line",
        x=tuple(f"{step:g}" for step in found.steps),
        series=(("log-odds change", found.sizes),),
    )
    return (chart, Table(("step", "log-odds change", ""), rows, ("step", "log-odds change")))


def _outliers(results: Sequence[Result]) -> tuple[Block, ...]:
    found = next((one for one in results if isinstance(one, Outliers) and one.found), None)
    if found is None:
        return ()
    columns = ("sequence", "position", "log-odds change")
    rows = tuple((plain(str(name)), str(place), f"{change:+.3f}") for name, place, change in found.examples)
    return (Table(columns, rows, columns[1:]),)
