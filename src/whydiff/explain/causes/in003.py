"""IN003 mask-differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, plays
from whydiff.explain.causes._explained import Array, Finding, Operation, PlaceRule, View, distance
from whydiff.explain.causes._flow import first_scored, listed_indices
from whydiff.numbers.tolerance import SAME_FUNCTION, UNIT_ROUNDOFF
from whydiff.records import Evidence, Remedy, Verdict

_STEPS = 12
_KEYS = 1024


class MaskDiffers(PlaceRule):
    """Other keys take part in attention on the two sides.

    What it detects:
        A mask that a run makes itself, or that an attention op is given, and that hides other entries on the
        two sides; a mask that only one side gives; a causal flag that only one side sets.

    Why it happens:
        The padding mask is not passed on; a triangle is off by one; a window is one token wider; a mask is
        inverted; an all-ones mask is dropped by one backend; ``is_causal`` with a cache means another
        triangle than with a mask.

    Evidence required:
        At an origin both sides write booleans, zeros and ones, or numbers that are zero or so negative that
        their exponential is zero, and they reach a softmax or an attention op; or the attention op itself
        reads such a tensor on one side only, or another one. Without any such tensor it is measured: given
        one-hot values, an attention op returns its probabilities, and keys with none take no part; scores on
        their way to a softmax are hidden where they lie so far below their row's largest that their exponential
        is zero, and the others must agree. The entries that differ are counted, with rows and keys.

    Look-alikes:
        IN001 if the mask is an argument of the run; ST002 if it is a buffer. IN002: positions that also make
        the mask. A mask that hides only padded keys of padded rows changes nothing for the other rows.

    Example:
        A causal triangle that lets every query see the next key.

    Remedy:
        Build the mask once, and give it to both sides.

    How it is verified:
        By replay: the candidate gets the reference's mask (``set-argument`` or ``replace-op``); the outputs
        must become equal bit for bit.

    References:
        PyTorch, ``scaled_dot_product_attention`` (``attn_mask``, ``is_causal``); huggingface/transformers,
        issues on left padding and sdpa masks.
    """

    code = "IN003"
    name = "mask-differs"
    says = "other keys take part in attention on the two sides"
    yields_to = ("IN002", "FO005", "TR001")

    def explain(self, view: View) -> Finding | None:
        """Two masks that are not the same."""
        evidence = _written(view) or _given(view) or _attended(view) or _scores(view)
        if evidence is None:
            return None
        steps = view.give_argument() or view.give_constants() or view.replace_op()
        return Finding(self.code, "mask", Verdict.SEMANTIC, (evidence,), steps)

    def remedy(self, finding: Finding) -> Remedy:
        """Build one mask."""
        return Remedy("Build the mask once and give it to both sides.", undoes="either")

    def example(self) -> tuple[Any, Any]:
        """A triangle that is off by one."""
        import torch

        torch.manual_seed(0)
        scores, values = torch.randn(6, 6), torch.randn(6, 4)

        def run(diagonal: int) -> Any:
            hidden = torch.ones(6, 6, dtype=torch.bool).triu(diagonal)
            return torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ values

        return lambda: run(1), lambda: run(2)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """A bias that hides nothing, another axis, another temperature, keys and values of which some are zero."""
        import torch

        torch.manual_seed(0)
        scores, values = torch.randn(6, 6), torch.randn(6, 4)
        distance = (torch.arange(6)[:, None] - torch.arange(6)).abs()

        def run(slope: float = 0.0, axis: int = -1, factor: float = 1.0, kept: int = 6) -> Any:
            weights = torch.softmax(scores * factor - slope * distance, axis)
            return weights @ (values * (torch.arange(6) < kept)[:, None])

        yield lambda: run(slope=0.5), lambda: run(slope=0.25)
        yield lambda: run(), lambda: run(axis=-2)
        yield lambda: run(), lambda: run(factor=0.5)
        yield lambda: run(), lambda: run(kept=4)


def hidden_by(values: Array, dtype: str) -> Array | None:
    """Which entries a mask marks: booleans or zeros and ones as they are, else those whose exponential is zero.

    Returns:
        Booleans of the shape of ``values``; None if they are not a mask.
    """
    if dtype == "bool" or dtype.startswith(("int", "uint")):
        return values.astype(bool) if np.all((values == 0) | (values == 1)) else None
    with np.errstate(under="ignore", over="ignore"):
        hidden = np.exp(values.astype(np.float32)) == 0
    return hidden if np.all(hidden | (values == 0)) else None


def _written(view: View) -> Evidence | None:
    """The origin writes the mask."""
    kinds = [payload.dtype for payload in view.seen.outputs]
    masks = [hidden_by(values, kind) for values, kind in zip(view.outputs, kinds, strict=True)]
    if masks[0] is None or masks[1] is None or masks[0].shape != masks[1].shape or not masks[0].ndim:
        return None
    taker = first_scored(view.case, view.origin.calls, _STEPS)
    if taker is None or not np.any(masks[0] != masks[1]):
        return None
    return _evidence(masks[0], masks[1], f"it reaches {taker.site.at('')}")


def _given(view: View) -> Evidence | None:
    """An attention op is given a mask on one side only, another one, or a boolean argument differs."""
    if (
        view.single is None
        or Role.SCORED not in view.seen.operations[0].roles
        or min(len(c.reads) for c in view.single) < 3
    ):
        return None
    found = []
    for operation in view.seen.operations:
        masks = [
            mask
            for values, dtype in zip(operation.reads[3:], operation.dtypes[3:], strict=True)
            if (mask := hidden_by(values, dtype)) is not None
        ]
        found.append(masks[0] if masks else None)
    site = view.origin.site.at("")
    ours, theirs = found
    if ours is not None and theirs is not None:
        return _evidence(ours, theirs, f"{site} reads it") if np.any(ours != theirs) else None
    for mask, side, other in ((ours, "reference", "candidate"), (theirs, "candidate", "reference")):
        if mask is not None:
            return Evidence(
                f"{site} is given a mask of {_size(mask)} in the {side} and none in the {other}; "
                f"{int(mask.sum())} of its {mask.size} entries are marked",
                {"given_to": side, "marked": int(mask.sum()), "entries": int(mask.size)},
            )
    return None


def _attended(view: View) -> Evidence | None:
    """The keys that take part for every query, measured: values that are one-hot give the probabilities.

    This sees a causal flag, a window and a mask alike, in one op or spelt out in several.
    """
    sides = zip(view.case.traces, view.seen.calls, strict=True)
    if not all(any(plays(trace.framework, c.site.op, Role.SCORED) for c in calls) for trace, calls in sides):
        return None
    hidden = [_unattended(operation) for operation in view.seen.operations]
    if hidden[0] is None or hidden[1] is None or hidden[0].shape != hidden[1].shape:
        return None
    if not np.any(hidden[0] != hidden[1]):
        return None
    return _evidence(hidden[0], hidden[1], f"measured at {view.origin.site.at('')}, with one-hot values")


def _unattended(operation: Operation) -> Array | None:
    """Which keys have no part in a query's result, bool[..., queries, keys]; None if it cannot be measured."""
    for at in reversed(operation.floats()):  # the values come last
        value = operation.reads[at]
        if value.ndim < 2 or value.shape[-1] != operation.shape[-1] or not 1 < value.shape[-2] <= _KEYS:
            continue
        found = _probabilities(operation, at)
        with np.errstate(invalid="ignore"):
            if np.allclose(found.sum(-1), 1.0, rtol=0.0, atol=SAME_FUNCTION * UNIT_ROUNDOFF["float32"]):
                return np.asarray(found == 0)
    return None


def _probabilities(operation: Operation, at: int) -> Array:
    """What an op returns for one-hot values in the place of a read: [..., queries, keys]."""
    value = operation.reads[at]
    keys, width = value.shape[-2:]
    parts = []
    for first in range(0, keys, width):
        probe = np.zeros_like(value)
        for key in range(first, min(first + width, keys)):
            probe[..., key, key - first] = 1.0
        reads = [probe if i == at else read for i, read in enumerate(operation.reads)]
        parts.append(operation.run(reads, operation.arguments)[..., : min(width, keys - first)])
    return np.concatenate(parts, -1)


def _scores(view: View) -> Evidence | None:
    """Scores of which other entries are hidden on the two sides, and that are the same otherwise."""
    ours, theirs = view.exact
    if ours.shape != theirs.shape or ours.ndim < 2 or np.isnan(ours).any() or np.isnan(theirs).any():
        return None
    hidden = _beyond(ours), _beyond(theirs)
    seen = ~hidden[0] & ~hidden[1]
    if not np.any(hidden[0] != hidden[1]) or not seen.any():
        return None
    if distance(ours[seen], theirs[seen]) > SAME_FUNCTION * UNIT_ROUNDOFF["float32"]:
        return None
    taker = first_scored(view.case, view.origin.calls, _STEPS)
    if taker is None:
        return None
    return _evidence(hidden[0], hidden[1], f"the other scores agree, and {taker.site.at('')} reads them")


def _beyond(scores: Array) -> Array:
    """Scores so far below the largest of their row that their exponential is zero in float32."""
    with np.errstate(invalid="ignore", under="ignore"):
        below = scores - scores.max(-1, keepdims=True)
        return np.asarray((np.exp(below.astype(np.float32)) == 0) | np.isneginf(scores))


def _evidence(ours: Array, theirs: Array, where: str) -> Evidence:
    apart = np.atleast_1d(np.asarray(np.broadcast_to(ours, np.broadcast_shapes(ours.shape, theirs.shape)) != theirs))
    keys = np.asarray(apart.reshape(-1, apart.shape[-1]).any(0))
    text = f"{int(apart.sum())} of {apart.size} entries of the mask differ, keys {listed_indices(keys)}"
    if apart.ndim > 1:
        rows = np.asarray(apart.any(-1)).reshape(-1, apart.shape[-2]).any(0)
        text += f" in rows {listed_indices(np.asarray(rows))}"
    more = int(ours.sum()), int(theirs.sum())
    return Evidence(
        f"{text}; {more[0]} are marked in the reference, {more[1]} in the candidate; {where}",
        {
            "differing": int(apart.sum()),
            "entries": int(apart.size),
            "marked_reference": more[0],
            "marked_candidate": more[1],
        },
    )


def _size(mask: Array) -> str:
    return f"[{','.join(map(str, mask.shape))}]"


REGISTER = MaskDiffers()
