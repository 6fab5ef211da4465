"""The sweep as a document: the answer in a few lines, then sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from whydiff.records import STANDING, Cause, Environment, Verdict
from whydiff.report.answer import MEANING, sentence
from whydiff.report.blocks import Block, Chart, Code, Lines, Section, Table, Text, rest
from whydiff.report.json import encode
from whydiff.report.words import count, listed, number, percent, place, plain, ranges, short
from whydiff.studies.base import Study
from whydiff.studies.sweep.findings import Axis, Cell, Classes, Judged, Pairs, Size, Tried
from whydiff.studies.sweep.grouping import along, elsewhere, pattern

_SHADES = "·░▒▓█"
_MOST_COLUMNS = 40
_MOST_ROWS = 40
_MOST_KERNELS = 12


@dataclass(frozen=True, slots=True, repr=False)
class Sweep(Study):
    """The whole study.

    Attributes:
        axis: what was compared: sizes along this axis against the reference size.
        reference: the reference size along the axis, as text.
        cells: by size.
        classes: how sizes group, per op and for the outputs.
        verdict, reason: the most severe verdict of the representatives.
        judged: representatives: one for each set of ops that was found.
        causes: SH001 … with their evidence.
        remedies: carried out, the cheapest that works first.
        environment: where it ran.
        notes: sentences worth reading.
        pairs: of all rows, where the study is of the first that differs (`whydiff.assert_batch_invariant`).
    """

    title: ClassVar[str] = "sweep"
    axis: Axis
    reference: str
    cells: tuple[Cell, ...]
    classes: tuple[Classes, ...] = ()
    verdict: Verdict = Verdict.INCONCLUSIVE
    reason: str = ""
    judged: tuple[Judged, ...] = ()
    causes: tuple[Cause, ...] = ()
    remedies: tuple[Tried, ...] = ()
    environment: Environment = field(default_factory=Environment)
    notes: tuple[str, ...] = ()
    pairs: Pairs | None = None

    @property
    def variant_ops(self) -> tuple[str, ...]:
        """Operator names whose bits change with the size, on equal inputs."""
        return tuple(dict.fromkeys(f.op for cell in self.cells for f in cell.found if f.kind == "implementation"))

    def cell(self, batch: int = 0, length: int = 0, layout: str = "contiguous") -> Cell:
        """The cell of a size.

        Raises:
            KeyError: it was not swept.
        """
        return {cell.size: cell for cell in self.cells}[Size(batch, length, layout)]

    def separation(self, axis: Axis) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Values of another axis at which outputs always differ, never differ, and do either (as text)."""
        seen: dict[Any, set[bool]] = {}
        for cell in self.cells:
            if cell.status != "failed" and cell.size != cell.against:
                seen.setdefault(getattr(cell.size, axis), set()).add(cell.outputs_equal)
        pick = [{False}, {True}, {False, True}]
        failing, passing, mixed = (tuple(str(v) for v, s in sorted(seen.items()) if s == want) for want in pick)
        return failing, passing, mixed

    @property
    def word(self) -> str:
        """The verdict."""
        return str(self.verdict)

    def remedy(self) -> str:
        """Code of the first cause's remedy."""
        return next((c.remedy.code for c in self.causes if c.remedy is not None), "")

    def fields(self) -> dict[str, Any]:
        """The fields and the heat map."""
        return {**encode(self), "heat_map": heat_map(self)}

    def answer(self) -> Lines:
        """The five sentences that every comparison is answered with."""
        return (
            ("", _headline(self)),
            ("where", plain(_where(self))),
            ("effect", plain(_effect(self))),
            ("proof", plain(_proof(self))),
            (
                "fix",
                plain("; ".join(c.remedy.text.rstrip(".") for c in self.causes if c.remedy is not None) or _do(self)),
            ),
        )

    def _why(self) -> str:
        return f"why the verdict is {self.word}: {self.reason}"

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """Everything else, in reading order."""
        return (
            Section("Classes of sizes that agree bit for bit", _classes(self)),
            Section("Where sizes separate", _separation(self)),
            Section(f"Ops × {self.axis}: share of elements changed on equal inputs", _heat(self)),
            Section("Outputs", _outputs(self, verbose)),
            Section("How far it grows (plain runs, largest cell of each setting)", _growth(self)),
            Section("Kernels that ran", _kernels(self, verbose)),
            Section("Remedies tried", _remedies(self)),
            Section("Not compared", _left(self)),
            Section("Notes", tuple(Text(plain(note)) for note in (self._why(), *self.notes))),
        )


def _headline(study: Sweep) -> str:
    cause = next((c for c in study.causes if c.status in STANDING), None)
    if cause is None:
        other = f"at one {study.axis} the outputs are another function of the inputs than at another"
        said = other if study.verdict is Verdict.SEMANTIC else MEANING[study.verdict]
        return f"{study.word.upper()}: {said}"
    return f"{study.word.upper()}, {STANDING[cause.status]}: {sentence(cause)} ({cause.code})"


def _where(study: Sweep) -> str:
    """The ops whose bits depend on the size; those that group the sizes alike are told together.

    Where more than rounding is found, an op that only rounds otherwise is told as that, and not as the place.
    """
    acting, beside = _ops(study)
    alike: dict[str, list[str]] = {}
    for one in acting:
        sizes = ", ".join("{" + ranges(group) + "}" for group in one.groups)
        at = f", at {one.where}" if one.where else ""
        sites = f" ({one.sites} places)" if one.sites > 1 else ""
        alike.setdefault(f"{study.axis} {sizes}{at}", []).append(f"{place(one.what)}{sites}")
    said = [f"{listed(names, 3)} – equal bits only within {sizes}" for sizes, names in alike.items()]
    said = [*said[:2], *([f"and {len(said) - 2} more (-v)"] if len(said) > 2 else [])]
    names = list(dict.fromkeys(place(one.what) for one in beside))
    rounds = [f"beside it, only rounding by other kernels: {listed(names, 3)}"] if beside else []
    return "; ".join([*said, *rounds]) or "nowhere"


def _ops(study: Sweep) -> tuple[list[Classes], list[Classes]]:
    """The ops that vary, and apart from them, where the study is more than rounding, those judged to be no more."""
    ops = [one for one in study.classes if not one.of_outputs]
    worst: dict[str, int] = {}
    for site, verdict in (pair for one in study.judged for pair in one.ops.items()):
        worst[pattern(site)] = max(worst.get(pattern(site), 0), verdict.severity)
    limit = Verdict.ROUNDING.severity
    if study.verdict.severity <= limit:
        return ops, []
    acting = [one for one in ops if worst.get(one.what, limit + 1) > limit]
    return (acting, [one for one in ops if one not in acting]) if acting else (ops, [])


def _effect(study: Sweep) -> str:
    if (found := study.pairs) is not None:
        most = f", at most by {short(found.max_abs)} (row {found.row} of {found.size})" if found.max_abs else ""
        return (
            f"{found.differ} of {count(found.tried, '(size, row) pair')} {'differs' if found.tried == 1 else 'differ'}{most}; "
            f"sizes that differ: {ranges(found.sizes)}; that agree: {ranges(found.agree) or 'none'}"
        )
    compared = [cell for cell in study.cells if cell.status != "failed" and cell.size != cell.against]
    changed = [cell for cell in compared if not cell.outputs_equal]
    if not changed:
        return f"none: the outputs are bit-equal at {'all ' if len(compared) > 1 else ''}{count(len(compared), 'size')}"
    largest = [m.get("max_abs") or 0.0 for cell in changed for m in cell.outputs.values()]
    most = f", at most by {short(max(largest))}" if any(largest) else ""
    flips, asked = sum(cell.flips for cell in changed), sum(cell.positions for cell in changed)
    flip = (
        f"; in {flips} of {count(asked, 'row')} another number is the largest"
        if flips
        else "; the largest of each row stays"
    )
    choices = flip if asked else ""
    return f"the outputs change at {len(changed)} of {count(len(compared), 'size')}{most}{choices}"


def _proof(study: Sweep) -> str:
    """The remedies that leave nothing, the cheapest first; of several one is told and the others are counted."""
    working = [one for one in study.remedies if one.works]
    beyond = [one.beyond for one in study.judged if one.beyond is not None]
    if beyond and study.verdict is Verdict.SEMANTIC:
        return f"in float64, where rounding plays no part, the outputs still differ, on average by {short(max(beyond))}"
    if not working:
        return (
            "no remedy was proven"
            if study.verdict is not Verdict.IDENTICAL
            else "the outputs were compared bit for bit"
        )
    first, rest = working[0], len(working) - 1
    more = f"; {count(rest, 'other remedy does', 'other remedies do')} too" if rest else ""
    sizes = f"all {first.tried} sizes" if first.tried > 1 else "the size"
    return f"with {first.name} the outputs agree bit for bit at {sizes} tried{more}"


def _do(study: Sweep) -> str:
    if study.verdict is Verdict.IDENTICAL:
        return "nothing to do"
    if study.verdict is Verdict.SEMANTIC:
        named = listed(dict.fromkeys(place(one.what) for one in _ops(study)[0]), 3)
        if study.axis == "batch":
            return f"compute {named} for each row alone, or with statistics that are no batch's"
        return f"find what lets {named} read beyond what both sizes have"
    return "-v says what is missing"


def _classes(study: Sweep) -> tuple[Block, ...]:
    blocks = []
    for one in study.classes:
        blocks.append(Text(plain(str(one))))
        blocks += [Text(plain(line), 1) for line in one.orders_text()]
        if one.no_orders:
            blocks.append(Text(plain(f"order of the sum: {one.no_orders}"), 1, "dim"))
    return tuple(blocks)


def _separation(study: Sweep) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for axis, many in (("length", "lengths"), ("batch", "batches")):
        failing, passing, mixed = study.separation(axis)  # type: ignore[arg-type]
        if len(failing) + len(passing) + len(mixed) < 2:
            continue
        blocks += [
            Text(f"{many} at which outputs differ: {ranges(failing) or 'none'}"),
            Text(f"{many} at which they agree: {ranges(passing) or 'none'}"),
        ]
        if mixed:
            blocks.append(Text(f"{many} at which it depends on the rest: {ranges(mixed)}"))
        elif failing and passing:
            blocks.append(Text(f"The two sets of {many} do not intersect.", 1))
    return tuple(blocks)


def _heat(study: Sweep) -> tuple[Block, ...]:
    data = heat_map(study)
    columns = list(dict.fromkeys(size for row in data.values() for size in row))
    order = [along(cell.size, study.axis) for cell in study.cells]
    columns = [size for size in dict.fromkeys(order) if size in columns][:_MOST_COLUMNS]
    if not columns:
        return ()
    rows = tuple((plain(op), *(_shade(row.get(size, 0.0)) for size in columns)) for op, row in data.items())
    legend = "· none, ░ below 25 %, ▒ below 50 %, ▓ below 75 %, █ more; the largest over all ops and settings of a row"
    chart = Chart(
        title=f"Share of elements changed on equal inputs, by {study.axis}",
        kind="heat",
        x=tuple(columns),
        series=tuple((plain(op), tuple(row.get(size, 0.0) for size in columns)) for op, row in data.items()),
        unit="op",
    )
    return (chart, Table(("op", *columns), rows), Text(legend, tone="dim"))


def heat_map(study: Sweep) -> dict[str, dict[str, float]]:
    """Op (layer numbers left open) → size along the axis → largest share of elements changed on equal inputs."""
    sizes = list(dict.fromkeys(along(cell.size, study.axis) for cell in study.cells))
    data: dict[str, dict[str, float]] = {}
    for cell in study.cells:
        for one in cell.found:
            row = data.setdefault(pattern(one.site), dict.fromkeys(sizes, 0.0))
            here = along(cell.size, study.axis)
            row[here] = max(row[here], one.different)
    return data


def _shade(share: float) -> str:
    return _SHADES[0] if not share else _SHADES[min(4, 1 + int(share * 4))]


def _outputs(study: Sweep, verbose: bool) -> tuple[Block, ...]:
    rows = []
    for cell in (c for c in study.cells if c.status == "differs"):
        for slot, measured in cell.outputs.items():
            if measured.get("different"):
                rows.append(
                    (
                        str(cell.size),
                        slot,
                        percent(measured["different"]),
                        number(measured.get("max_abs")),
                        number(measured.get("rel_l2")),
                        f"{cell.flips} of {cell.positions}",
                        str(len(cell.found)),
                    )
                )
    if not rows:
        return (Text("No output changes a bit.", tone="good"),)
    columns = ("size", "output", "elements changed", "max abs", "rel L2", "largest value moved", "places")
    shown = rows if verbose else rows[:_MOST_ROWS]
    return (Table(columns, tuple(shown), columns[2:]), *rest(len(rows) - len(shown), "rows"))


def _growth(study: Sweep) -> tuple[Block, ...]:
    last: dict[object, Cell] = {}
    for cell in study.cells:
        if cell.growth:
            last[elsewhere(cell.size, study.axis)] = cell
    chosen = list(last.values())[:2]
    blocks: list[Block] = []
    for cell in chosen:
        steps = [step for step in cell.growth if "." in step[0] or not step[0]] or list(cell.growth)
        shown = steps if len(steps) <= 8 else [steps[round(n * (len(steps) - 1) / 7)] for n in range(8)]
        text = ", ".join(f"{scope or 'the root'} {number(mean)}" for scope, mean, _ in shown)
        blocks.append(Text(plain(f"{cell.size}: mean absolute difference at {text}")))
    return tuple(blocks)


def _kernels(study: Sweep, verbose: bool) -> tuple[Block, ...]:
    rows: dict[tuple[str, ...], None] = {}
    for cell in study.cells:
        for one in cell.found:
            if one.kernels[0]:
                rows[one.op, ", ".join(one.kernels[0]), ", ".join(one.kernels[1]), str(cell.size)] = None
    shown = list(rows) if verbose else list(rows)[:_MOST_KERNELS]
    table = Table(("op", "at the reference size", "here", "size"), tuple(tuple(map(plain, row)) for row in shown))
    return (table, *rest(len(rows) - len(shown))) if shown else ()


def _remedies(study: Sweep) -> tuple[Block, ...]:
    rows = []
    for one in study.remedies:
        if one.failed:
            rows.append((one.name, "failed", "–", "–", "–", plain(one.failed)))
        else:
            equal = f"{one.equal} of {one.tried}"
            rows.append((one.name, equal, number(one.max_abs), number(one.shift), f"{one.cost:.2f} × ({one.at})", ""))
    if not rows:
        return ()
    columns = ("remedy", "sizes equal", "difference left", "own change", "time", "why not")
    best = next((one for one in study.remedies if one.works and one.code), None)
    return (Table(columns, tuple(rows)), *((Code(best.code),) if best else ()))


def _left(study: Sweep) -> tuple[Block, ...]:
    totals: dict[tuple[str, str], list[int]] = {}
    for cell in study.cells:
        for one in cell.not_compared:
            reason = one.reason.partition(" (sizes")[0].partition(";")[0]
            totals.setdefault((one.what, reason), []).append(one.count)
    return tuple(
        Text(plain(f"{what}: {reason} ({sum(counts)} in {count(len(counts), 'cell')})"))
        for (what, reason), counts in totals.items()
    )
