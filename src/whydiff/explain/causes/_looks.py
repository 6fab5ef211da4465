"""Which elements of which tensor a read looks at."""

from __future__ import annotations

import math

import numpy as np

from whydiff.explain.case import Case
from whydiff.numbers.rearrangement import Indices
from whydiff.records import Event


def places(event: Event) -> Indices:
    """Flat positions within its storage that an event looks at, row-major."""
    spec = event.spec
    found = np.full(spec.shape, spec.offset, dtype=np.int64)
    strides = spec.strides or tuple(math.prod(spec.shape[i + 1 :]) for i in range(len(spec.shape)))
    for axis, (size, stride) in enumerate(zip(spec.shape, strides, strict=True)):
        found += (np.arange(size) * stride).reshape((-1,) + (1,) * (len(spec.shape) - axis - 1))
    return found.reshape(-1)


def one_value(case: Case, er: Event, ec: Event) -> bool:
    """Whether two reads look at values of paired calls, or at leaves of one name."""
    if er.producer >= 0 and ec.producer >= 0:
        return any(p.reference == er.producer and p.candidate == ec.producer for p in case.alignment.pairs)
    names = [
        {leaf.name for leaf in trace.leaves if leaf.storage == event.storage}
        for trace, event in ((case.reference, er), (case.candidate, ec))
    ]
    return er.producer == ec.producer == -1 and bool(names[0] & names[1])
