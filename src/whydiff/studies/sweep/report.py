"""The sweep's report: the answer in a few lines, then sections; as text, Markdown or JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from whydiff.errors import UsageError
from whydiff.records import Verdict
from whydiff.report.blocks import Block, Code, Section, Table, Text
from whydiff.report.markdown import _blocks, _code, escape
from whydiff.report.terminal import _Writer, make_console
from whydiff.report.words import count, number, percent, plain
from whydiff.studies.sweep.findings import Cell, Sweep
from whydiff.studies.sweep.grouping import along, elsewhere, pattern, ranges
from whydiff.studies.sweep.naming import classes_text, orders_text

_SHADES = "·░▒▓█"
_MOST_COLUMNS = 40
SUFFIXES = (".json", ".md", ".txt")
Color = Literal["always", "auto", "never"]


def answer(study: Sweep) -> tuple[tuple[str, str], ...]:
    """The answer in five labelled sentences."""
    ops = [c for c in study.classes if c.what != "outputs"]
    where = "; ".join(classes_text(c) for c in ops[:3]) + (f"; and {len(ops) - 3} more (below)" if len(ops) > 3 else "")
    why = "; ".join(f"{c.code} {c.name} ({c.status})" for c in study.causes) or _no_cause(study)
    proof = "; ".join(
        f"{e.outcome} ({e.interventions[0].name})"
        for c in study.causes
        for e in c.experiments
        if e.status == "confirmed"
    )
    do = "; ".join(c.remedy.text for c in study.causes if c.remedy is not None) or _do(study)
    return (
        ("verdict", f"{study.verdict} – {study.reason}"),
        ("where", where or "no op"),
        ("why", why),
        ("proof", proof or "no remedy was proven"),
        ("do", do),
    )


def _no_cause(study: Sweep) -> str:
    if study.verdict is Verdict.IDENTICAL:
        return "nothing differs"
    if study.verdict is Verdict.SEMANTIC:
        return (
            f"the outputs at one {study.axis} are another function of the inputs than at another: not a kernel's order"
        )
    return "no known cause fits"


def _do(study: Sweep) -> str:
    if study.verdict is Verdict.IDENTICAL:
        return "nothing"
    if study.verdict is Verdict.SEMANTIC:
        return "find what mixes the rows or reads beyond the counterpart: the ops above"
    return "see the notes"


def sections(study: Sweep) -> tuple[Section, ...]:
    """Everything else, in reading order; empty sections are left out."""
    every = (
        Section("Classes of sizes that agree bit for bit", _classes(study)),
        Section("Where sizes separate", _separation(study)),
        Section(f"Ops × {study.axis}: share of elements changed on equal inputs", _heat(study)),
        Section("Outputs", _outputs(study)),
        Section("How far it grows (plain runs, largest cell of each setting)", _growth(study)),
        Section("Kernels that ran", _kernels(study)),
        Section("Remedies tried", _remedies(study)),
        Section("Not compared", _left(study)),
        Section("Notes", tuple(Text(plain(note)) for note in study.notes)),
    )
    return tuple(section for section in every if section.blocks)


def _classes(study: Sweep) -> tuple[Block, ...]:
    blocks = []
    for one in study.classes:
        blocks.append(Text(plain(classes_text(one))))
        blocks += [Text(plain(line), 1) for line in orders_text(one)]
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
    return (Table(("op", *columns), rows), Text(legend, tone="dim"))


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


def _outputs(study: Sweep) -> tuple[Block, ...]:
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
    columns = ("size", "output", "elements changed", "max abs", "rel L2", "largest value moved", "origins")
    shown = rows if len(rows) <= 40 else rows[:40]
    more = (Text(f"and {len(rows) - 40} more rows in the JSON report"),) if len(rows) > 40 else ()
    return (Table(columns, tuple(shown), columns[2:]), *more)


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


def _kernels(study: Sweep) -> tuple[Block, ...]:
    rows: dict[tuple[str, ...], None] = {}
    for cell in study.cells:
        for one in cell.found:
            if one.kernels[0]:
                rows[one.op, ", ".join(one.kernels[0]), ", ".join(one.kernels[1]), str(cell.size)] = None
    shown = list(rows)[:12]
    more = (Text(f"and {len(rows) - 12} more in the JSON report"),) if len(rows) > 12 else ()
    table = Table(("op", "at the reference size", "here", "size"), tuple(tuple(map(plain, row)) for row in shown))
    return (table, *more) if shown else ()


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


def render_text(study: Sweep, color: Color = "never", width: int | None = None) -> str:
    """The report as text."""
    file = io.StringIO()
    _write(study, _Writer(make_console(color, width or 10_000, file)))
    return file.getvalue()


def render_markdown(study: Sweep) -> str:
    """The report as Markdown."""
    parts = [f"# whydiff sweep: {study.verdict}"]
    parts.append("\n".join(f"- **{label}**: {escape(text)}" for label, text in answer(study)))
    parts += [_code(c.remedy.code) for c in study.causes if c.remedy is not None and c.remedy.code]
    for section in sections(study):
        parts += [f"## {escape(section.title)}", _blocks(section.blocks)]
    return "\n\n".join(parts) + "\n"


def render_json(study: Sweep) -> str:
    """The report as JSON."""
    return json.dumps(study.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(study: Sweep, color: Color = "auto", width: int | None = None) -> None:
    """Print the report on the terminal."""
    _write(study, _Writer(make_console(color, width)))


def _write(study: Sweep, out: _Writer) -> None:
    for label, text in answer(study):
        out.labelled(label, plain(text), "bold" if label == "verdict" else "")
    for section in sections(study):
        out.console.print()
        out.line(section.title, "bold")
        for block in section.blocks:
            out.block(block)


def check_suffixes(paths: Sequence[str]) -> None:
    """Refuse an unknown kind of file before a long study runs.

    Raises:
        UsageError: a suffix other than `SUFFIXES`.
    """
    for path in paths:
        if Path(path).suffix.lower() not in SUFFIXES:
            raise UsageError(
                "A sweep's report cannot be written as this kind of file.",
                where=path,
                actual=Path(path).suffix or "(no suffix)",
                expected=" or ".join(SUFFIXES),
            )


def save(study: Sweep, path: str) -> None:
    """Write the report to a file; its suffix decides."""
    check_suffixes([path])
    renderers = {".json": render_json, ".md": render_markdown, ".txt": render_text}
    try:
        Path(path).write_text(renderers[Path(path).suffix.lower()](study), encoding="utf-8")
    except OSError as error:
        raise UsageError("The report cannot be written.", where=path, actual=str(error)) from error
