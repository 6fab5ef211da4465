"""What hidden rows do to the others, by running the program again: a replay cannot say where numbers leave the program.

How many tokens an expert gets is read by Python and decides the sizes of what follows; recorded sizes do not fit other
tokens. The live program follows. Its kernels then work on other sizes too, so that other rows may change by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Run, executor_of, for_framework
from whydiff.errors import WhydiffError
from whydiff.locate.masks import Mask, is_mask, truth
from whydiff.locate.rows import Array, other_rows, within
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.tolerance import CANCELLED_SHARE, UNIT_ROUNDOFF
from whydiff.records import Intervention, Payload, Trace

Outputs = Mapping[str, Payload]


def hides_live(trace: Trace, run: Run, mask: Mask, shown: bool) -> bool:
    """Whether the rows where an input is not ``shown`` change no other row beyond rounding, because of that input.

    Args:
        trace: of the run.
        run: it is run three times.
        mask: an input of zeros and ones.
        shown: what it holds for rows that take part.
    """
    keep = mask.values == shown
    if mask.event is not None or not run.supports(Intervention("restore-input", mask.name)):
        return False
    try:
        plain = _outputs(trace, run, {})
        others = _with_other_rows(trace, keep)
        if not others or _moved(plain, moved := _outputs(trace, run, others), keep):
            return False
        if not _moved(plain, moved, ~keep):
            return False
        flipped = np.zeros_like(keep)
        flipped[np.arange(len(keep)), (~keep).argmax(axis=1)] = True
        flipped &= ~keep
        return _moved(plain, _outputs(trace, run, _with_mask(trace, mask, flipped)), keep & ~flipped)
    except WhydiffError:  # it cannot run so: nothing is shown
        return False


def _outputs(trace: Trace, run: Run, inputs: Mapping[str, Payload]) -> Outputs:
    """What the run gives with other inputs."""
    adapter = for_framework(trace.framework)
    plain = adapter.executor(trace)
    given = {name: plain.adopt_foreign(payload) for name, payload in inputs.items()}
    donor = adapter.executor(trace, restore=given)
    found = run.plain([Intervention("restore-input", name) for name in given], donor)
    return {path: plain.payload(value) for path, value in found}


def _moved(before: Outputs, after: Outputs, rows: Array) -> bool:
    """Whether some of these rows of an output differ by more than rounding may make: half of the digits."""
    for path, payload in before.items():
        lead, other = within(rows, payload.bits.shape), after.get(path)
        if lead is None or is_integer(payload.dtype) or other is None or other.bits.shape != payload.bits.shape:
            continue
        apart = compare_payloads(*(Payload(np.ascontiguousarray(p.bits[lead]), p.dtype) for p in (payload, other)))
        far = apart.value("rel_l2")
        if far is not None and not far <= UNIT_ROUNDOFF[payload.dtype] ** CANCELLED_SHARE:
            return True
    return False


def _with_other_rows(trace: Trace, keep: Array) -> Mapping[str, Payload]:
    """Kept rows' values in the rows that are not kept, of every input that has these rows and is no mask."""
    executor = executor_of(trace)
    found: dict[str, Payload] = {}
    for leaf in trace.leaves:
        if leaf.role != "input" or leaf.storage < 0 or leaf.skipped or leaf.spec.shape[:2] != keep.shape:
            continue
        payload = executor.payload(executor.leaf_value(leaf))
        if not is_integer(payload.dtype):
            found[leaf.name] = other_rows(payload, keep)
        elif payload.bits.shape == keep.shape and not is_mask(payload):
            bits: Any = payload.bits.copy()
            bits[~keep] = np.resize(bits[keep], int((~keep).sum()))
            found[leaf.name] = Payload(bits, payload.dtype)
    return found


def _with_mask(trace: Trace, mask: Mask, flipped: Array) -> Mapping[str, Payload]:
    """The mask with some entries turned."""
    executor = executor_of(trace)
    leaf = next(leaf for leaf in trace.leaves if leaf.name == mask.name)
    payload = executor.payload(executor.leaf_value(leaf))
    there = truth(payload)
    one, zero = payload.bits[there].reshape(-1)[0], payload.bits[~there].reshape(-1)[0]
    return {mask.name: Payload(np.where(there ^ flipped, one, zero).astype(payload.bits.dtype), payload.dtype)}
