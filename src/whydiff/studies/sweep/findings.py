"""What a sweep finds, as inert records that travel between processes and to disk as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from whydiff.records import Count, Verdict
from whydiff.report.words import ranges

Status = Literal["identical", "differs", "failed"]
Axis = Literal["batch", "length", "layout"]
OUTPUTS = "outputs"
"""What `Classes` are of, if not of an op."""


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """One cell: what the program was run at. 0: the program's inputs have no such size."""

    batch: int = 0
    length: int = 0
    layout: str = "contiguous"

    def __str__(self) -> str:
        parts = [f"batch {self.batch}"] if self.batch else []
        parts += [f"length {self.length}"] if self.length else []
        parts += [self.layout] if self.layout != "contiguous" or not parts else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Found:
    """An op whose bits are not those of the reference's size, on inputs that agree (an origin).

    Attributes:
        site: of the op's output.
        op: operator name.
        kind: as in `whydiff.records.Origin`.
        bits: digest of its counterpart: equal digests at two sizes are equal bits on equal inputs.
        different: share of the counterpart's elements that differ.
        max_abs, mean_abs: absolute difference over the counterpart.
        shapes: of what the op read at this size.
        kernels: what ran, in the reference and here, as far as the framework tells; empty if not looked at.
        layouts: what it read whose strides or alignment differ between the two sizes, in words.
    """

    site: str
    op: str
    kind: str
    bits: str = ""
    different: float = 0.0
    max_abs: float = 0.0
    mean_abs: float = 0.0
    shapes: tuple[str, ...] = ()
    kernels: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    layouts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One size against its reference size.

    Attributes:
        size, against: the two sizes.
        status: of the outputs and of every op: ``identical`` only if no op's bits changed either.
        outputs: slot → measurements of the counterpart (``different``, ``max_abs``, ``mean_abs``, ``rel_l2``).
        bits: digest of the outputs' counterparts.
        flips: positions whose largest value stands elsewhere along the last dimension.
        positions: how many positions were asked.
        found: origins, in execution order.
        growth: (scope, mean absolute, max absolute difference) of the plain run, in execution order.
        accounted: whether resynchronising at the origins leaves no differing bit in the outputs.
        not_compared: what was left out, counted.
        repeats: whether the program repeats itself at the reference size; None: not asked.
        note: why it failed, or what else is to be known.
        seconds: how long it took (not part of its meaning).
    """

    size: Size
    against: Size
    status: Status
    outputs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bits: str = ""
    flips: int = 0
    positions: int = 0
    found: tuple[Found, ...] = ()
    growth: tuple[tuple[str, float, float], ...] = ()
    accounted: bool | None = None
    not_compared: tuple[Count, ...] = ()
    repeats: bool | None = None
    note: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def outputs_equal(self) -> bool:
        """Whether no bit of any output's counterpart differs."""
        return self.status != "failed" and not any(m.get("different") for m in self.outputs.values())


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict of one representative cell.

    Attributes:
        size: the cell.
        verdict, reason: of the whole difference.
        ops: site → verdict of each origin.
        beyond: mean absolute difference of the outputs in float64 where it stays there, so that it is no rounding; None
            where it shrinks, or could not be measured.
    """

    size: Size
    verdict: Verdict
    reason: str
    ops: Mapping[str, Verdict] = field(default_factory=dict)
    beyond: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """In which order one class of sizes adds up.

    Attributes:
        text: the accumulation tree in a line; empty if it is not known.
        proved: replaying it gives the op's bits, on the other size's terms too, and wrong trees do not.
        why: it is not known, or not proved.
    """

    text: str
    proved: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Classes:
    """How sizes group for one op (or the outputs) at one setting of the other sizes: equal bits, one class.

    Attributes:
        what: the op's site with layer numbers left open, or ``"outputs"``.
        where: the setting, e.g. ``"length 61–128"``.
        groups: sizes along the axis, the reference's class first.
        sites: how many ops behave so.
        orders: how each group adds up, in the order of ``groups``; empty if no tree was revealed.
        no_orders: why not, if it was tried.
    """

    what: str
    where: str
    groups: tuple[tuple[str, ...], ...]
    sites: int = 1
    orders: tuple[Order, ...] = ()
    no_orders: str = ""

    @property
    def of_outputs(self) -> bool:
        """Whether these are the outputs' classes, not an op's."""
        return self.what == OUTPUTS

    def __str__(self) -> str:
        """``addmm: {1}, {2, 3}, {4–32} (36 ops; length 61–128)``."""
        groups = ", ".join("{" + ranges(group) + "}" for group in self.groups)
        details = [] if self.of_outputs else [f"{self.sites} op{'s' if self.sites != 1 else ''}"]
        details += [self.where] if self.where else []
        return f"{self.what}: {groups}" + (f" ({'; '.join(details)})" if details else "")

    def orders_text(self) -> tuple[str, ...]:
        """``{1}: 16 lanes, then …``; one line for each group, and whether it is proved; none if unknown."""
        lines = []
        for group, order in zip(self.groups, self.orders, strict=True) if self.orders else ():
            text = order.text or f"unknown ({order.why})"
            lines.append("{" + ranges(group) + f"}}: {text}" + (" – proved by replaying it" if order.proved else ""))
        return tuple(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Of every row alone against itself in every size: which pairs differ.

    Attributes:
        differ, tried: (size, row) pairs.
        max_abs: the largest difference; of ``row`` in ``size``.
        sizes, agree: those in which a row differs, and the others.
    """

    differ: int
    tried: int
    max_abs: float
    size: int
    row: int
    sizes: tuple[int, ...]
    agree: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """A remedy that was carried out.

    Attributes:
        name: what was done.
        ops: to which ops.
        equal: sizes at which the outputs then agree bit for bit, of how many ``tried``.
        max_abs: largest absolute difference left between the sizes.
        shift: largest absolute change of the reference's own outputs by the remedy.
        cost: its time over the plain time, at the largest size tried; median of several runs.
        at: the size at which the cost was taken.
        code: to paste.
        failed: why it could not be carried out.
    """

    name: str
    ops: tuple[str, ...] = ()
    equal: int = 0
    tried: int = 0
    max_abs: float = 0.0
    shift: float = 0.0
    cost: float = 0.0
    at: str = ""
    code: str = ""
    failed: str = ""

    @property
    def works(self) -> bool:
        """Whether every size tried agrees bit for bit."""
        return not self.failed and self.tried > 0 and self.equal == self.tried


def cell_to_dict(cell: Cell) -> dict[str, Any]:
    """JSON-able data of one cell."""
    return dataclasses.asdict(cell)


def cell_from_dict(data: Mapping[str, Any]) -> Cell:
    """A cell again from what `cell_to_dict` made (also after JSON)."""
    own = dict(data)
    own["size"], own["against"] = Size(**data["size"]), Size(**data["against"])
    own["found"] = tuple(
        Found(
            **{
                **f,
                "shapes": tuple(f["shapes"]),
                "layouts": tuple(f["layouts"]),
                "kernels": (tuple(f["kernels"][0]), tuple(f["kernels"][1])),
            }
        )
        for f in data["found"]
    )
    own["growth"] = tuple((scope, mean, largest) for scope, mean, largest in data["growth"])
    own["not_compared"] = tuple(Count(**{**c, "examples": tuple(c["examples"])}) for c in data["not_compared"])
    return Cell(**own)
