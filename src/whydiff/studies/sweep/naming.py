"""The causes that a sweep proves: SH001, SH002, SH003 with their evidence and the remedies that were tried."""

from __future__ import annotations

from collections.abc import Sequence

from whydiff.explain.causes import by_code
from whydiff.records import Cause, Evidence, Experiment, Intervention, Remedy, Status, Verdict
from whydiff.studies.sweep.findings import Tried
from whydiff.studies.sweep.report import Sweep

CODES = {"batch": "SH001", "length": "SH002", "layout": "SH003"}


def name_causes(study: Sweep, tried: Sequence[Tried]) -> tuple[Cause, ...]:
    """The cause of the sweep's axis, if ops vary with it and the difference is rounding; else none."""
    ops = study.variant_ops
    if study.verdict is not Verdict.ROUNDING or not ops:
        return ()
    detector = by_code(CODES[study.axis])
    first = next(f for cell in study.cells for f in cell.found if f.kind == "implementation")
    working = [one for one in tried if one.works]
    experiments = tuple(_experiment(one) for one in tried if not one.failed)
    remedy = Remedy("Accept it; nothing that was tried makes the sizes agree.", accepts=True)
    if working:
        best = working[0]
        sizes = f"all {best.tried} sizes" if best.tried > 1 else "the size"
        text = f"{best.name} makes {sizes} tried agree bit for bit at {best.cost:.2f} times the time"
        remedy = Remedy(f"{text} ({best.at}).", best.code, carried_out=True)
    elif not tried:
        remedy = Remedy("Accept it, or try the remedies (remedies=True).")
    reason = "" if working else "no remedy that was tried removes it" if tried else "no remedy was tried"
    status: Status = "confirmed" if working else "inconclusive"
    return (
        Cause(
            code=detector.code,
            name=detector.name,
            site=first.site,
            verdict=Verdict.ROUNDING,
            evidence=tuple(_evidence(study)),
            remedy=remedy,
            status=status,
            reason=reason,
            experiments=experiments,
            says=detector.sentence(),
        ),
    )


def _evidence(study: Sweep) -> list[Evidence]:
    found = [
        Evidence(str(c), {"groups": [list(g) for g in c.groups]})
        for c in study.classes
        if not c.of_outputs and len(c.groups) > 1
    ]
    for kind in study.classes:
        lines = kind.orders_text()
        if lines:
            found.append(Evidence(f"{kind.what} adds up {'; '.join(lines)}", {"orders": list(lines)}))
    said: dict[tuple[str, ...], None] = {}
    for cell in study.cells:
        for one in cell.found:
            here, there = one.kernels
            key = (one.op, *here, *there)
            if here and there and key not in said and len(said) < 8:
                said[key] = None
                found.append(
                    Evidence(
                        f"{one.op} ran {', '.join(here)} at {cell.against} and {', '.join(there)} at {cell.size}",
                        {"reference": list(here), "here": list(there)},
                    )
                )
    return found


def _experiment(one: Tried) -> Experiment:
    outcome = f"{one.equal} of {one.tried} sizes agree, largest difference left {one.max_abs:.1e}; "
    outcome += f"{one.cost:.2f} times the time at {one.at}; its own outputs moved by {one.shift:.1e}"
    return Experiment(
        interventions=tuple(Intervention(one.name, op) for op in one.ops),
        prediction="every size agrees with the reference size bit for bit",
        outcome=outcome,
        status="confirmed" if one.works else "refuted",
        method="rerun",
        before=None,
        after=one.max_abs,
    )
