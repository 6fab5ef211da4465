"""Origins that were not examined one by one: what others of their kind amount to, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whydiff.explain.alike import alike
from whydiff.explain.case import Case
from whydiff.explain.local_test import LocalResult
from whydiff.explain.scaling import Scaling
from whydiff.records import Count, Evidence, Origin, Verdict

Kinds = Mapping[int, Sequence[int]]


def left_to_others(case: Case, scaling: Scaling, local: Mapping[int, LocalResult] | None) -> Kinds:
    """Position of each origin that a test passed over → the examined ones of its kind; empty if no test was asked."""
    return alike(case).left if scaling.alone or local is not None else {}


def like_others(origin: Origin, own: Verdict, others: Sequence[Origin]) -> tuple[Verdict, list[Evidence]]:
    """What an origin amounts to by the gravest of its kind, unless its own numbers say it.

    Differing state and inputs are held against each other tensor by tensor, and NaN on one side only is seen in the
    recorded values: neither needs a test.
    """
    if not others:
        return own, [Evidence("not examined: there are too many kinds of origins, and none of its kind was")]
    gravest = max(others, key=lambda other: other.verdict.severity)
    first, more = others[0].site, f" and {len(others) - 1} more" if len(others) > 1 else ""
    told = Evidence(
        f"not examined one by one: of its kind {first}{more} were, the gravest of which is {gravest.verdict}",
        {"like": [str(other.site) for other in others]},
    )
    own_numbers = own is Verdict.UNSTABLE or (origin.kind in ("state", "input") and own is not Verdict.INCONCLUSIVE)
    return (own if own_numbers else gravest.verdict), [told]


def not_examined(case: Case, scaling: Scaling | None, local: Mapping[int, LocalResult] | None) -> tuple[Count, ...]:
    """How many origins were left to others of their kind, and how many to nobody."""
    kinds = left_to_others(case, scaling, local) if scaling is not None else {}
    origins = case.localization.origins
    found = []
    for reason, numbers in (
        ("more of the same kind, not examined one by one", [number for number, like in kinds.items() if like]),
        ("none of their kind was examined: there are too many kinds", [n for n, like in kinds.items() if not like]),
    ):
        if numbers:
            examples = tuple(str(origins[number].site) for number in numbers[:3])
            found.append(Count(what="origins", reason=reason, count=len(numbers), examples=examples))
    return tuple(found)
