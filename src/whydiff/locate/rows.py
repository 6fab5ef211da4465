"""Rows of a returned tensor that take part in the comparison; the others (padding) are left out and counted.

A row is everything at one place of the leading axes: a token's vector, a sequence's logits at one position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whydiff.records import Count, Payload, Slot

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Which rows of one output are compared.

    Attributes:
        slot: of the output.
        keep: bool, of the output's leading axes: True is compared.
        why: why the others are not, as the end of a sentence.
        asked: the caller said so; else it was found by experiment.
    """

    slot: Slot
    keep: Array
    why: str
    asked: bool = False

    @property
    def left_out(self) -> int:
        """How many rows are not compared."""
        return int(self.keep.size - np.count_nonzero(self.keep))

    def of(self, payload: Payload) -> Payload:
        """The rows that are compared, ``[rows, …]``; the payload itself if it has other leading axes."""
        if payload.bits.shape[: self.keep.ndim] != self.keep.shape:
            return payload
        return Payload(np.ascontiguousarray(payload.bits[self.keep]), payload.dtype)

    def covered(self, reference: Payload, candidate: Payload) -> Payload:
        """The candidate with the reference's rows where nothing is compared, so that positions stay in place."""
        if reference.bits.shape != candidate.bits.shape or reference.dtype != candidate.dtype:
            return candidate
        bits = candidate.bits.copy()
        bits[~self.keep] = reference.bits[~self.keep]
        return replace(candidate, bits=bits)

    def __str__(self) -> str:
        return f"{self.left_out} of {self.keep.size} rows of {self.slot} are padding, because {self.why}"

    def count(self) -> Count:
        """For the report."""
        return Count(
            what="rows of outputs",
            reason=f"{self.slot}: {self.left_out} of {self.keep.size} are padding: {self.why}",
            count=self.left_out,
            examples=places(~self.keep),
            code="part",
        )


def places(chosen: Array) -> tuple[str, ...]:
    """The first three places of a mask, as text."""
    return tuple(f"[{', '.join(map(str, place))}]" for place in np.argwhere(chosen)[:3].tolist())


def fitted(keep: Array, shape: tuple[int, ...]) -> Array | None:
    """A mask of rows in the leading axes of a tensor, which may have merged them; None if it does not fit."""
    if shape[: keep.ndim] == keep.shape:
        return keep
    if shape and keep.size == shape[0]:
        return keep.reshape(-1)
    return None


def within(keep: Array, shape: tuple[int, ...]) -> Array | None:
    """A mask of rows over a tensor's leading axes, where other axes (heads) may lie between the mask's two.

    None: it fits nowhere, or at several places.
    """
    found = fitted(keep, shape)
    if found is not None or keep.ndim != 2 or len(shape) < 4 or shape[0] != keep.shape[0]:
        return found
    at = [axis for axis in range(2, len(shape) - 1) if shape[axis] == keep.shape[1]]
    if len(at) != 1:
        return None
    between = keep.reshape(len(keep), *(1,) * (at[0] - 1), keep.shape[1])
    return np.broadcast_to(between, shape[: at[0] + 1]).copy()


def compared(rows: Mapping[Slot, Rows], slot: Slot, payload: Payload) -> Payload:
    """What of an output is compared."""
    return rows[slot].of(payload) if slot in rows else payload


def other_rows(payload: Payload, keep: Array) -> Payload:
    """Kept rows' values, with the other sign, in the rows that are not kept."""
    lead = fitted(keep, payload.bits.shape)
    assert lead is not None
    bits = payload.bits.copy().reshape(keep.size, -1)
    kept, left = np.flatnonzero(keep), np.flatnonzero(~keep)
    plain = unsigned(bits)
    sign = plain.dtype.type(1 << (8 * plain.dtype.itemsize - 1))
    plain[left] = plain[np.resize(kept, left.size)] ^ sign
    return Payload(plain.view(payload.bits.dtype).reshape(payload.bits.shape), payload.dtype)


def unsigned(bits: Array) -> Array:
    """The bits as unsigned integers of the same width."""
    if bits.dtype.kind == "c":
        bits = bits.view(bits.real.dtype)
    return np.ascontiguousarray(bits).view(f"u{bits.dtype.itemsize}")
