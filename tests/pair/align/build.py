"""Synthetic traces: a list of `Op` becomes a `RecordedTrace` with indices and occurrences filled in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whydiff.capturing.adapters import for_framework
from whydiff.pair.align.entries import by_entry
from whydiff.pair.align.steps import numbering
from whydiff.records import (
    Alignment,
    Call,
    Environment,
    Event,
    Fingerprint,
    Kind,
    Leaf,
    ObserverCheck,
    Phase,
    RecordedTrace,
    Site,
    TensorSpec,
)


@dataclass(frozen=True)
class Op:
    """One call to be: ``tag`` is its identity across two traces and is not recorded in the trace."""

    scope: str
    op: str
    shape: tuple[int, ...] = (2, 4)
    dtype: str = "float32"
    kind: Kind = "compute"
    phase: Phase = "forward"
    step: int = 0
    overload: str = "default"
    value: int | None = None
    state: int | None = None
    made_by: int = -1
    arguments: Any = None
    tag: Any = None


def trace(ops: Iterable[Op]) -> RecordedTrace:
    """``value`` is the output's fingerprint, ``state`` that of the parameter it reads, which op ``made_by`` wrote last."""
    seen: Counter[tuple[str, str, str, int]] = Counter()
    calls = []
    leaves: dict[int, Leaf] = {}
    for index, op in enumerate(ops):
        key = (op.scope, op.op, op.phase, op.step)
        site = Site(op.scope, op.op, op.phase, op.step, occurrence=seen[key])
        seen[key] += 1
        spec = TensorSpec(op.shape, op.dtype)
        value = None if op.value is None else Fingerprint((op.value, 1), spec.numel * 4)
        reads: tuple[Event, ...] = ()
        if op.state is not None:
            weight = TensorSpec((4, 4), "float32")
            bits = Fingerprint((op.state, 2), 64)
            leaf = Leaf(10_000 + op.state, "parameter", f"w{op.state}", weight, bits)
            leaves[op.state] = leaf
            reads = (Event(site.at("read.0"), weight, leaf.storage, op.made_by, leaf.fingerprint),)
        writes = (Event(site.at("output"), spec, index + 1_000_000, fingerprint=value),)
        target = f"aten.{op.op}.{op.overload}"
        calls.append(Call(index, site, target, op.kind, reads, writes, arguments=op.arguments))
    return RecordedTrace("torch", "op", tuple(calls), tuple(leaves.values()), Environment(), ObserverCheck(None, None))


def layer(scope: str, *, weights: int | None = None, step: int = 0, width: int = 4) -> list[Op]:
    """Attention and MLP of one transformer layer, with views; ``weights`` numbers its six parameters."""
    names = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")
    number = {name: None if weights is None else 10 * weights + n for n, name in enumerate(names)}

    def linear(name: str, out: int = width) -> list[Op]:
        return [
            Op(f"{scope}.{name}", "t", kind="view", step=step),
            Op(f"{scope}.{name}", "mm", (2, out), state=number[name], step=step),
        ]

    return [
        *norm(f"{scope}.norm", step=step),
        *linear("attn.q"),
        *linear("attn.k"),
        *linear("attn.v"),
        Op(f"{scope}.attn", "_scaled_dot_product_attention", (2, width), step=step),
        *linear("attn.o"),
        Op(scope, "add", (2, width), step=step),
        *linear("mlp.up", 4 * width),
        Op(f"{scope}.mlp.act", "gelu", (2, 4 * width), step=step),
        *linear("mlp.down"),
        Op(scope, "add", (2, width), step=step),
    ]


def norm(scope: str, *, step: int = 0) -> list[Op]:
    """RMS norm: every layer's weight is all ones, so its bits say nothing about which layer it is."""
    return [
        Op(scope, "pow", step=step),
        Op(scope, "mean", (2, 1), step=step),
        Op(scope, "add", (2, 1), overload="Scalar", step=step),
        Op(scope, "rsqrt", (2, 1), step=step),
        Op(scope, "mul", step=step),
        Op(scope, "mul", state=9_999, step=step),
    ]


def model(
    layers: int = 3, *, prefix: str = "layers", weights: Sequence[int] | None = None, step: int = 0, root: str = ""
) -> list[Op]:
    """Embedding, layers, head, return. ``weights`` gives each layer's weight number (none: no state)."""
    dot = f"{root}." if root else ""
    return [
        Op(f"{dot}embed", "embedding", step=step, state=None if weights is None else 7_000),
        *(
            op
            for n in range(layers)
            for op in layer(f"{dot}{prefix}.{n}", weights=None if weights is None else weights[n], step=step)
        ),
        *norm(f"{dot}norm", step=step),
        Op(f"{dot}head", "mm", (2, 100), step=step, state=None if weights is None else 7_001),
        Op("", "return", (2, 100), kind="return", step=step),
    ]


def rescope(ops: Iterable[Op], old: str, new: str) -> list[Op]:
    """The same calls with every scope's text ``old`` replaced."""
    return [replace(op, scope=op.scope.replace(old, new)) for op in ops]


def tagged(ops: Iterable[Op]) -> list[Op]:
    """Give every call an identity that survives editing."""
    return [replace(op, tag=n) for n, op in enumerate(ops)]


def counted_steps(reference: RecordedTrace, candidate: RecordedTrace) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Each call's step as the alignment counts them: those of a resumed run go on from where the other had come to."""
    _, *steps = numbering(reference, candidate)
    return by_entry((reference.calls, candidate.calls), steps)


def check(alignment: Alignment, reference: RecordedTrace, candidate: RecordedTrace) -> None:
    """Every invariant that `Alignment` documents, and that only like pairs with like."""
    for side, unpaired, views, recorded in (
        ("reference", alignment.unpaired_reference, alignment.views_reference, reference),
        ("candidate", alignment.unpaired_candidate, alignment.views_candidate, candidate),
    ):
        paired = [getattr(pair, side) for pair in alignment]
        assert paired == sorted(set(paired)), f"{side} not strictly increasing"
        assert list(unpaired) == sorted(set(unpaired))
        visible = [call.index for call in recorded.calls if call.kind != "view"]
        assert sorted([*paired, *unpaired]) == visible
        assert views == len(recorded.calls) - len(visible)
    steps = counted_steps(reference, candidate)
    for pair in alignment:
        left, right = reference.calls[pair.reference], candidate.calls[pair.candidate]
        assert steps[0][left.index] == steps[1][right.index]
        assert pair.how
        one, other = (
            for_framework(t.framework).function(c.site.op) for t, c in ((reference, left), (candidate, right))
        )
        assert one == other
        for part in ("phase", "rank"):
            assert getattr(left.site, part) == getattr(right.site, part)
        assert left.kind == right.kind


def longest(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Length of the longest common subsequence, by the textbook recurrence."""
    row = [0] * (len(second) + 1)
    for left in first:
        diagonal = 0
        for i, right in enumerate(second):
            diagonal, row[i + 1] = row[i + 1], diagonal + 1 if left == right else max(row[i + 1], row[i])
    return row[-1]
