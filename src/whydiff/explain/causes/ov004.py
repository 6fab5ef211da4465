"""OV004 fully-masked-row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.explain.case import Case
from whydiff.explain.causes._range import RangeRule, alarms
from whydiff.explain.causes._range_put import Array, by_reads, pairs_at
from whydiff.numbers.ranges.audit import Alarm
from whydiff.records import Cause, Experiment, Intervention, Remedy, Status


class FullyMaskedRow(RangeRule):
    """A row is masked with minus infinity throughout, and a softmax or norm of it is NaN.

    What it detects:
        NaN that appears where the inputs hold no NaN but rows that are minus infinity in every element.

    Why it happens:
        Left padding, packed sequences and windows leave queries with no key to look at; ``exp(-inf - -inf)`` is
        NaN, and NaN spreads to every row with the next product.

    Evidence required:
        The number of rows of the operator's input that are minus infinity throughout, and the NaN it writes.

    Look-alikes:
        OV001: NaN from an overflow. IN003: two masks that differ but mask no row wholly.

    Example:
        A softmax whose second row is masked throughout, with minus infinity against the lowest finite number.

    Remedy:
        Mask with the lowest finite number of the dtype, or set the rows' outputs to zero.

    How it is verified:
        Minus infinity is replaced by the lowest finite number in those rows and the operator is carried out
        again; no NaN may be left.

    References:
        pytorch/pytorch#41508; Python's ``torch.finfo(dtype).min``.
    """

    code = "OV004"
    name = "fully-masked-row"
    says = "a row that is masked throughout gives NaN"
    alarms = ("masked-row",)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per operator of the candidate that turns masked rows into NaN."""
        for alarm in alarms(case, "masked-row"):
            cause = replace(self.from_alarm(alarm), status="inconclusive", experiments=())
            yield _proven(case, cause, alarm)

    def told(self, alarm: Alarm) -> tuple[str, Remedy, tuple[Intervention, ...]]:
        """What was measured, the remedy, and the finite mask."""
        rows = alarm.data.get("fully_masked_rows", 0)
        sentence = f"{rows} rows of its input are minus infinity throughout; it writes {alarm.data.get('nans', 0)} NaN"
        remedy = Remedy(
            "Mask with the lowest finite number instead of minus infinity, or zero these rows afterwards.",
            "scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)",
            undoes="either",
        )
        return sentence, remedy, (Intervention("finite-mask", str(alarm.site)),)

    def from_alarm(self, alarm: Alarm) -> Cause:
        """The cause of a range audit's alarm; the audit has tried the finite mask."""
        cause = super().from_alarm(alarm)
        left = alarm.data.get("nans_with_finite_mask")
        if left is None:
            return cause
        status: Status = "refuted" if left else "confirmed"
        experiment = Experiment(
            interventions=cause.interventions,
            prediction="no NaN is left",
            outcome=f"{left} NaN left of {alarm.data.get('nans')}",
            status=status,
            method="replay",
        )
        return replace(cause, status=status, experiments=(experiment,))

    def example(self) -> tuple[Any, Any]:
        """A softmax of a masked row, with a finite and with an infinite mask."""
        import torch

        scores = torch.linspace(-1, 1, 8).reshape(2, 4)
        mask = torch.tensor([[False], [True]]).expand(2, 4)

        def program(low: float) -> Any:
            return scores.masked_fill(mask, low).softmax(-1)

        return (lambda: program(torch.finfo(torch.float32).min)), (lambda: program(float("-inf")))

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """The reference masks the row as well: it replaces the NaN, or its kernel gives zeros there."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        scores, hidden = torch.linspace(-1, 1, 8).reshape(2, 4), torch.tensor([[False], [True]]).expand(2, 4)
        q, k = torch.linspace(-1, 1, 8).reshape(1, 2, 4), torch.linspace(1, 2, 16).reshape(1, 4, 4)

        def masked() -> Any:
            return scores.masked_fill(hidden, float("-inf")).softmax(-1)

        yield (lambda: masked().nan_to_num()), masked
        yield (
            lambda: scaled_dot_product_attention(q, k, k, attn_mask=~hidden[None]),
            lambda: (q @ k.mT / 2).masked_fill(hidden, float("-inf")).softmax(-1) @ k,
        )


def _proven(case: Case, cause: Cause, alarm: Alarm) -> Cause:
    """The candidate's op on finite masked rows, and the reference's on the candidate's rows of minus infinity."""
    pairs = pairs_at(case, alarm)
    rows: dict[tuple[int, int], Array] = {}

    def unmasked(call: int, position: int, value: Array) -> Array | None:
        hidden = np.asarray(np.isneginf(value).all(-1) if value.ndim else False)
        if not hidden.any():
            return None
        rows[pairs[call], position] = hidden
        value[hidden] = np.finfo(value.dtype).min
        return value

    def masked(call: int, position: int, value: Array) -> Array | None:
        hidden = rows.get((call, position))
        if hidden is None or hidden.shape != value.shape[:-1]:
            return None
        value[hidden] = -np.inf
        return value

    words = "with the lowest finite number in its masked rows", "with the candidate's rows of minus infinity"
    return by_reads(case, cause, alarm, away=unmasked, put=masked, words=words)


REGISTER = FullyMaskedRow()
