"""Compare two values, or two recorded events by their fingerprints.

Payloads (`compare_payloads`), first rule that applies:

| reference and candidate | status | reason |
|---|---|---|
| shapes differ | differs | both shapes |
| no dtype holds the values of both exactly, or an unknown dtype | not_compared | both dtypes |
| no bit differs, same dtype | agrees | |
| no bit differs after exact widening, other dtype | agrees | names both dtypes |
| anything else | differs | how many elements; names both dtypes if they differ |

Events (`same`), first rule that applies:

| a and b | answer |
|---|---|
| one of them has no fingerprint (skipped) | None |
| shapes differ | False |
| dtypes differ: the bytes are not comparable | None |
| both fingerprints cover the content | equal? |
| both cover a span, known and equal strides, equal fingerprints | True |
| any other mixture of spans and content | None |

A span also reads the bytes between the elements, so two unequal spans may still hold equal elements.
"""

from __future__ import annotations

from collections.abc import Callable

from whydiff import registry
from whydiff.errors import guarded
from whydiff.numbers.metrics import Statistics, common_dtype, known_dtypes, measure_beside_fill
from whydiff.numbers.tolerance import Tolerance, default_tolerance
from whydiff.records import Comparison, Event, Measurement, Payload


def compare_payloads(reference: Payload, candidate: Payload, *, tolerance: Tolerance | None = None) -> Comparison:
    """Compare two full tensors by the table above and take every registered metric.

    Args:
        reference: the trusted value.
        candidate: the value under suspicion.
        tolerance: used by the ``mismatched`` metric only, never by the status; by default that of
            ``torch.testing.assert_close`` for the two dtypes.

    Returns:
        A comparison with one measurement per metric; none if the shapes differ or nothing was compared.
    """
    return compared(
        (reference.bits.shape, reference.dtype),
        (candidate.bits.shape, candidate.dtype),
        lambda allowed: measure_beside_fill(reference, candidate, allowed.rtol, allowed.atol),
        tolerance=tolerance,
    )


Form = tuple[tuple[int, ...], str]
"""Shape and dtype."""


def compared(
    reference: Form, candidate: Form, measured: Callable[[Tolerance], Statistics], *, tolerance: Tolerance | None = None
) -> Comparison:
    """`compare_payloads` of two tensors that lie elsewhere.

    Args:
        reference: of the trusted value.
        candidate: of the value under suspicion.
        measured: the statistics, asked for once if the two can be compared.
        tolerance: as there.
    """
    if reference[0] != candidate[0]:
        reason = f"shape {_sizes(reference[0])} in the reference, {_sizes(candidate[0])} in the candidate"
        return Comparison("differs", reason, other_shape=True)
    kinds = reference[1], candidate[1]
    dtypes = "" if kinds[0] == kinds[1] else f"dtype {kinds[0]} in the reference, {kinds[1]} in the candidate"
    unknown = [dtype for dtype in dict.fromkeys(kinds) if dtype not in known_dtypes()]
    if unknown:
        return Comparison("not_compared", f"no metric reads the dtype {' or '.join(unknown)}")
    if common_dtype(*kinds) is None:
        return Comparison("not_compared", f"no dtype holds the values of both exactly: {dtypes}")
    statistics = measured(tolerance or default_tolerance(*kinds))
    measurements = take(statistics)
    if not statistics.different:
        return Comparison("agrees", f"equal values, but {dtypes}" if dtypes else "", measurements)
    reason = f"{statistics.different} of {statistics.elements} elements differ"
    return Comparison("differs", f"{reason}; {dtypes}" if dtypes else reason, measurements)


def take(statistics: Statistics) -> tuple[Measurement, ...]:
    """Every registered metric of one pass, in the registry's order; one that raises is counted and left out."""
    found = []
    for name, metric in registry.parts("metrics").items():
        with guarded(registry.described("metrics", name)):
            found.append(Measurement(metric.name, metric(statistics), metric.per))
    return tuple(found)


def same(a: Event, b: Event) -> bool | None:
    """Whether two events hold the same value, by the table above; None: their fingerprints do not decide."""
    if a.fingerprint is None or b.fingerprint is None:
        return None
    if a.spec.shape != b.spec.shape:
        return False
    if a.spec.dtype != b.spec.dtype:
        return None
    covers = {a.fingerprint.covers, b.fingerprint.covers}
    if covers == {"content"}:
        return a.fingerprint == b.fingerprint
    layout_known = covers == {"span"} and a.spec.strides == b.spec.strides != ()
    return True if layout_known and a.fingerprint == b.fingerprint else None


def _sizes(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
