"""IN002 positions-differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from whydiff.case import Case
from whydiff.causes._explained import Array, Finding, View, causes_of
from whydiff.causes._flow import first_taker, looks_up, turns
from whydiff.records import Cause, Evidence, Remedy, Verdict
from whydiff.tolerance import SCALING_FLOOR

_STEPS = 8


class PositionsDiffer:
    """The two sides number the same tokens differently.

    What it detects:
        Positions that a run makes itself (a ramp of whole numbers that looks up a position table or becomes
        rotary angles) and that are shifted or run differently on the two sides.

    Why it happens:
        Positions counted from one, or from a padding index; left padding that is counted or not; packed
        sequences whose positions do not begin anew; a decoding step that starts at the wrong place of the
        cache.

    Evidence required:
        At an origin both sides write whole numbers that rise by one along the last axis for the most part,
        and what takes them up is a table lookup, or a cosine or sine. The offset, or how many positions
        differ, is measured.

    Look-alikes:
        IN001 if the positions are an argument of the run; ST002 if the table differs; IN003 if they only
        make a mask. Rotary attention sees distances only: a common offset changes nothing but rounding, and
        the verdict then is rounding.

    Example:
        Learned positions looked up from 0 and from 1.

    Remedy:
        Give both sides the same positions: with padding ``(mask.cumsum(-1) - 1).clamp(min=0)``.

    How it is verified:
        By replay: the candidate gets the reference's positions (``set-argument`` or ``replace-op``); the
        outputs must become equal bit for bit.

    References:
        huggingface/transformers, ``position_ids`` of decoders and left padding; Su et al.,
        arXiv:2104.09864, section 3.2 (only distances matter).
    """

    code = "IN002"
    name = "positions-differ"
    rank = 4

    def explain(self, view: View) -> Finding | None:
        """Two ramps that are not the same."""
        if not all(dtype.startswith(("int", "float")) for dtype in (p.dtype for p in view.seen.outputs)):
            return None
        ours, theirs = view.outputs
        if ours.shape != theirs.shape or not ours.size or not _numbered(ours, theirs, view):
            return None
        taker = first_taker(view.case, view.origin.calls, lambda call: looks_up(call) or turns(call), _STEPS)
        if taker is None:
            return None
        offsets = np.unique(theirs - ours)
        apart = int(np.count_nonzero(theirs != ours))
        if len(offsets) == 1:
            text = f"all {ours.size} positions of the candidate are the reference's {offsets[0]:+.0f}"
        else:
            text = (
                f"{apart} of {ours.size} positions differ, by {offsets.min():+.0f} to {offsets.max():+.0f}: "
                f"{_shown(ours)} in the reference, {_shown(theirs)} in the candidate"
            )
        how = "look up a table" if looks_up(taker) else "become angles"
        harmless = _only_rounding(view.case)
        evidence = [Evidence(
            f"{text}; they {how} at {taker.site.at('')}",
            {"differing": apart, "positions": int(ours.size), "least": float(offsets.min()),
             "most": float(offsets.max()), "taken_up_at": str(taker.site.at(""))},
        )]  # fmt: skip
        if harmless:
            evidence.append(Evidence("in float64 the outputs agree: the program sees distances only",
                                     {"outputs_agree_in_float64": True}))  # fmt: skip
        verdict = Verdict.ROUNDING if harmless else Verdict.SEMANTIC
        return Finding(self.code, text, verdict, tuple(evidence), view.give_argument() or view.replace_op())

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per way in which positions differ."""
        return causes_of(case, self.code, self.name, lambda finding: Remedy(
            "Give both sides the same positions, counted from the first token that is not padding.",
            "positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)\n",
        ))  # fmt: skip

    def example(self) -> tuple[Any, Any]:
        """Positions from zero and from one."""
        import torch

        torch.manual_seed(0)
        words, places = torch.nn.Embedding(16, 8), torch.nn.Embedding(16, 8)
        ids = torch.tensor([[3, 1, 4, 1, 5]])

        def run(start: int) -> Any:
            return torch.tanh(words(ids) + places(torch.arange(start, start + ids.shape[1])))

        return lambda: run(0), lambda: run(1)


def _numbered(ours: Array, theirs: Array, view: View) -> bool:
    """Whether both are whole numbers and most steps along the last axis are one up (or a stay)."""
    both = np.stack([ours, theirs])
    if not np.all(np.isfinite(both)) or np.any(both != np.rint(both)):
        return False
    if ours.ndim == 0 or ours.shape[-1] == 1:
        made = [calls[0] for calls in view.seen.calls if len(calls) == 1]
        return bool(made) and ours.size == 1 and all(not call.reads for call in made)
    steps = np.diff(both, axis=-1)
    up = np.mean(steps == 1, axis=tuple(range(1, steps.ndim)))
    even = np.mean((steps == 0) | (steps == 1), axis=tuple(range(1, steps.ndim)))
    return bool(np.max(up) == 1 or np.min(even) == 1) and bool(np.all(up > 0)) and float(np.ptp(both)) > 1


def _shown(numbers: Array) -> str:
    rows = np.atleast_2d(numbers).reshape(-1, numbers.shape[-1])
    row = rows[0].astype(np.int64).tolist()
    return "[" + ", ".join(map(str, row[:8])) + (", …]" if len(row) > 8 else "]")


def _only_rounding(case: Case) -> bool:
    apart = case.shared("apart in float64", lambda: case.apart_in_float64(()))
    return apart is not None and apart <= SCALING_FLOOR


REGISTER = PositionsDiffer()
