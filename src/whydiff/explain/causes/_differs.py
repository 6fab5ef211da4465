"""Evidence for state that simply differs: shared by parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from whydiff.errors import PayloadError
from whydiff.explain.case import Case
from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.causes._state import Difference, bundles, interventions_of, site_of
from whydiff.numbers.casts import share_equal_to_rounding
from whydiff.numbers.metrics import is_integer, values
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Cause, Evidence, Leaf, Origin, Remedy, Verdict
from whydiff.report.words import listed


def causes(
    case: Case, rule: CauseRule, found: Sequence[Difference], remedy: Remedy | None, noun: str, total: int
) -> Iterator[Cause]:
    """One cause per bundle of differing tensors, with measured evidence."""
    for bundle in bundles(found):
        evidence = [*_evidence(case, bundle, noun, total), *reading(case, bundle)]
        yield rule.cause(
            site=site_of(bundle),
            verdict=Verdict.SEMANTIC,
            evidence=evidence,
            remedy=remedy,
            interventions=interventions_of(bundle),
            says=_says(bundle, noun, total),
        )


def _says(bundle: Sequence[Difference], noun: str, total: int) -> str:
    if bundle[0].reshaped:
        shapes = [f"{_short(d.name)} {_sizes(d.reference)} against {_sizes(d.candidate)}" for d in bundle]
        more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
        return f"{noun} have other shapes in the reference than in the candidate: {', '.join(shapes[:3])}{more}"
    if len(bundle) > 1:
        return f"{len(bundle)} of {total} {noun} hold other values in the candidate"
    return f"the candidate holds other values in {_short(bundle[0].name)}"


def _short(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _sizes(leaf: Leaf) -> str:
    return f"[{', '.join(map(str, leaf.spec.shape))}]"


def _evidence(case: Case, bundle: Sequence[Difference], noun: str, total: int) -> Iterator[Evidence]:
    if len(bundle) > 1:
        yield Evidence(
            f"{len(bundle)} of {total} {noun} differ: {listed(d.name for d in bundle)}",
            {"differing": len(bundle), "total": total, "names": [d.name for d in bundle]},
        )
    for difference in bundle:
        yield Evidence(statement(difference), difference.data)
        if len(bundle) == 1:
            yield from factor_of(case, difference)


def statement(difference: Difference) -> str:
    """What differs in one tensor, with numbers."""
    names = " = ".join(difference.names)
    ours, theirs = difference.reference.spec, difference.candidate.spec
    if ours.shape != theirs.shape:
        return f"{names} is {ours} in the reference and {theirs} in the candidate"
    comparison = difference.comparison
    if comparison is None or comparison.status == "not_compared":
        why = comparison.reason if comparison is not None else "its values were not kept"
        return f"{names} differs by fingerprint; {why}"
    different, max_abs = comparison.value("different"), comparison.value("max_abs")
    if not different:
        return f"{names} has equal values, but {ours.dtype} in the reference and {theirs.dtype} in the candidate"
    text = f"{names} differs in {round(different * ours.numel)} of {ours.numel} elements (max_abs {max_abs:.3e}"
    ulp = comparison.value("max_ulp")
    if ulp is not None and np.isfinite(ulp):
        text += f", max_ulp {ulp:.0f}"
    text += ")"
    return text if ours.dtype == theirs.dtype else f"{text}; {ours.dtype} against {theirs.dtype}"


def factor_of(case: Case, difference: Difference) -> Iterator[Evidence]:
    """Is it a constant factor, or nearly a cast? Only ever said if every element fits."""
    try:
        ours = case.payload(difference.reference, "reference")
        theirs = case.payload(difference.candidate, "candidate")
    except PayloadError:
        return  # `statement` says that there are no values
    share = share_equal_to_rounding(ours, theirs)
    if share is not None and share[0]:
        yield Evidence(
            f"{share[0]} of {share[1]} elements equal the reference rounded to {theirs.dtype}, the others "
            "do not: it was cast and also changed",
            {"equal_to_rounding": share[0], "elements": share[1]},
        )
    if ours.bits.shape != theirs.bits.shape or ours.bits.size < 2:
        return
    if any(
        p.dtype not in UNIT_ROUNDOFF or p.dtype.startswith("complex") or is_integer(p.dtype) for p in (ours, theirs)
    ):
        return
    one, other = (values(p.bits, p.dtype).reshape(-1).astype(np.float64) for p in (ours, theirs))
    nonzero = (one != 0) & np.isfinite(one) & np.isfinite(other)
    if np.count_nonzero(nonzero) < 2 or np.any(other[~nonzero & (one == 0)] != 0):
        return
    ratios = other[nonzero] / one[nonzero]
    factor = float(np.median(ratios))
    allowed = 2 * (UNIT_ROUNDOFF[ours.dtype] + UNIT_ROUNDOFF[theirs.dtype])  # each side is rounded once
    if factor and factor != 1.0 and float(np.max(np.abs(ratios - factor))) <= allowed * abs(factor):
        yield Evidence(f"the candidate is the reference times {factor:.9g}, element for element", {"factor": factor})


def reading(case: Case, bundle: Sequence[Difference]) -> Iterator[Evidence]:
    """Which origins read it; or that nothing does."""
    origins: dict[str, Origin] = {}
    for difference in bundle:
        for name in (*difference.names, *difference.targets):
            origins |= {str(origin.site): origin for origin in case.origins_reading(name)}
    if origins:
        first = next(iter(origins.values()))
        yield Evidence(f"{len(origins)} place(s) read it, the first is {first.site}", {"origins": list(origins)})
    elif not any(difference.read for difference in bundle):
        yield Evidence("no operator reads it on this input", {"read": False})


def count(case: Case, *roles: str) -> int:
    """How many state tensors of these roles both sides have."""
    return sum(1 for r, c in case.leaves.values() if r is not None and c is not None and r.role in roles)
