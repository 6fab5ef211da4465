"""What a comparison of two trees found in one file, as inert frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whydiff.records import Measurement

Status = Literal["identical", "within tolerance", "differs", "not compared"]
Kind = Literal["integer", "float", "value", "bytes"]


RelationKind = Literal[
    "reshaped",
    "transposed",
    "permuted",
    "permuted heads",
    "rearranged",
    "negated",
    "scaled",
    "normalised",
    "cast",
    "quantised",
    "renamed",
    "fused",
    "split",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """How the candidate's tensor follows from the reference's, proven on every number.

    Attributes:
        kind: what was done.
        factor: of ``scaled``, and of ``quantised`` with one scale.
        axis: that is permuted, normalised or joined; -1: a new first one.
        moved: rows of a permutation.
        detail: axes, pattern, dtypes.
    """

    kind: RelationKind
    factor: float | None = None
    axis: int | None = None
    moved: int = 0
    detail: str = ""

    def says(self) -> str:
        """The relation as a clause."""
        parts: list[str] = [self.kind]
        if self.factor is not None:
            parts.append(f"by {self.factor:g}")
        if self.axis is not None:
            parts.append("along a new first axis" if self.axis < 0 else f"along axis {self.axis}")
        return " ".join(parts) + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Item:
    """One named tensor, column or value of a file that is not identical on both sides.

    Attributes:
        name: within its file.
        kind: ``integer`` (compared exactly), ``float`` (by a tolerance), ``value`` (text, numbers in JSON) or
            ``bytes`` (a file that is not looked into).
        status: what the comparison says; ``not compared`` has a reason.
        reference, candidate: what stands there: dtype and shape, or the value; empty: missing on that side.
        reason: why it differs or was not compared, one sentence.
        structural: the two have other shapes, or one side lacks it.
        elements: real numbers compared.
        allclose: every pair within the tolerance, no NaN; None: not measured.
        equal_share: pairs with equal values, of `elements` (a NaN equals nothing, +0 equals -0).
        mean_abs: mean absolute difference over pairs of finite values.
        max_abs: largest absolute difference over pairs of finite values.
        rtol, atol: the tolerance; both 0 for integers.
        tolerance: where the tolerance comes from.
        measurements: whydiff's own metrics.
        relation: what turns one side into the other exactly; None: nothing that is known here.
    """

    name: str
    kind: Kind
    status: Status
    reference: str
    candidate: str
    reason: str = ""
    structural: bool = False
    elements: int = 0
    allclose: bool | None = None
    equal_share: float | None = None
    mean_abs: float | None = None
    max_abs: float | None = None
    rtol: float = 0.0
    atol: float = 0.0
    tolerance: str = ""
    measurements: tuple[Measurement, ...] = ()
    relation: Relation | None = None

    def value(self, metric: str) -> float | None:
        """The number of one metric, or None if it was not measured."""
        return next((m.value for m in self.measurements if m.metric == metric), None)


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file that both trees have.

    Attributes:
        path: relative, with ``/``.
        status: the most serious of its items.
        nbytes: file sizes in bytes, (reference, candidate).
        items: what is not identical, most serious first.
        identical: how many items are.
        rank: materiality, larger is more serious: (class, share of elements concerned, relative size).
        note: how it was read, where that is worth knowing.
    """

    path: str
    status: Status
    nbytes: tuple[int, int]
    items: tuple[Item, ...] = ()
    identical: int = 0
    rank: tuple[int, float, float] = (0, 0.0, 0.0)
    note: str = ""


@dataclass(frozen=True, slots=True)
class ChangedCode:
    """One row whose code (centroid id) changed, with the scores behind it (float64, from the stored arrays).

    Attributes:
        row: index into the codes.
        reference, candidate: the codes.
        margin: how much the reference's code beats the candidate's, in the reference's arrays.
        moved: how much the two scores differ between the trees, added up.
        rounding: what rounding of the stored embedding and codebook alone may move them by.
        near_tie: margin <= moved + rounding.
    """

    row: int
    reference: int
    candidate: int
    margin: float
    moved: float
    rounding: float
    near_tie: bool


@dataclass(frozen=True, slots=True)
class CodeExplanation:
    """Why the codes of one integer array changed.

    Attributes:
        codes: ``file: name`` of the integer array.
        changed: rows whose code differs, of `rows`.
        rows: how many codes there are.
        codebook, embeddings: ``file: name`` of the arrays that made the codes; empty if none was found.
        rule: ``largest dot product`` or ``smallest distance``; empty if none fits.
        evidence: share of sampled rows whose stored code is the nearest codebook row by this rule.
        near_ties: changed rows that a near tie explains, of `examined`.
        examined: changed rows that were looked at.
        typical_margin: median margin between the two best codebook rows over the sampled rows.
        examples: the changed rows with the largest margins first (those explained worst).
        reason: why nothing can be said, if so.
    """

    codes: str
    changed: int
    rows: int
    codebook: str = ""
    embeddings: str = ""
    rule: str = ""
    evidence: float = 0.0
    near_ties: int = 0
    examined: int = 0
    typical_margin: float | None = None
    examples: tuple[ChangedCode, ...] = ()
    reason: str = ""
