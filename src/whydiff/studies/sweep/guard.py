"""Guards for users' own code: a batch-invariant mode, and an assertion for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_target
from whydiff.errors import UsageError
from whydiff.numbers.comparison import compare_payloads
from whydiff.pair.slices import Axis, counterparts
from whydiff.records import Payload, Verdict
from whydiff.studies.same import Differs, verdict
from whydiff.studies.sweep.findings import Pairs, Size
from whydiff.studies.sweep.program import arguments, mapped, rows_of, sizes
from whydiff.studies.sweep.report import Sweep
from whydiff.studies.sweep.study import Sizes, sweep
from whydiff.studies.watch import current
from whydiff.takes import NUMBER, SIZES, TEXTS, WHOLES, Kind, takes

ROWS = 64
"""Rows of a piece where none are asked for: of 4 to 128, the cheapest that was bit-equal on MiniLM."""
_REMEDY = "fixed-row-chunks"


@takes(ops=Kind("names of ops, or a Sweep", lambda ops: isinstance(ops, Sweep) or TEXTS.fits(ops)), rows=NUMBER)
def batch_invariant(
    model: Any = None, *, ops: Sequence[str] | Sweep | None = None, rows: int = ROWS
) -> AbstractContextManager[Any]:
    """A mode in which ops are carried out in pieces of a fixed shape, so that rows do not depend on the batch.

    Args:
        model: any module or callable of the framework; only tells which framework it is.
        ops: names of the ops to change, or a `Sweep`, which found them; matrix products if omitted. Ops that
            do not vary should not be named: they only get slower.
        rows: rows of a piece.

    Returns:
        A context manager; while it is active, every call of the named ops on this thread is changed.

    Raises:
        whydiff.errors.UsageError: no batch-invariant form of an op is known, or the framework has none.
    """
    adapter = for_target(model if model is not None else _anything, ())
    if _REMEDY not in adapter.remedies:
        raise UsageError("This framework has no batch-invariant mode.", actual=adapter.name, expected="torch")
    names = ops.variant_ops if isinstance(ops, Sweep) else ops
    return adapter.remedy(_REMEDY, tuple(adapter.operators[Role.MATRIX] if names is None else names), rows)


def _anything() -> None: ...


@takes(sizes=SIZES, rows=WHOLES)
def assert_batch_invariant(
    model: Any,
    batch: Any,
    *,
    sizes: Sizes | None = None,
    rows: Iterable[int] | None = None,
    allow: Verdict | str | None = None,
) -> None:
    """Raise if any row's outputs depend on how many other rows are in the batch.

    Every row is run alone and in batches of every size, plainly; the ops are only asked for if that fails.

    Args:
        model: a module or callable.
        batch: its arguments at the largest size: a tensor, a tuple of arguments or a dict of keyword arguments;
            dimension 0 is the batch.
        sizes: batch sizes; powers of two and the number of rows if omitted. Beyond the number of rows, rows
            begin again.
        rows: rows that are compared; all if omitted.
        allow: the worst verdict of a row in a batch against the row alone that passes; no difference if omitted, or what
            the test's marker ``whydiff_allow`` says.

    Raises:
        whydiff.Differs: an `AssertionError`: a bit differs; the message is the answer of `whydiff.sweep` for the first such
            row and size, and which rows and sizes differ.
        whydiff.errors.UsageError: the arguments hold no batch, or none of the rows lies in one of the sizes.
    """
    __tracebackhide__ = True
    watch = current()
    allowed = verdict(allow if allow is not None else watch.allow or Verdict.IDENTICAL)
    held = rows_of(batch)
    if callable(batch) or not held:
        raise UsageError(
            "There is no batch to check.",
            actual=type(batch).__name__,
            expected="a tensor, a tuple or a dict of them, with the batch in dimension 0",
        )
    asked = _sizes(sizes, held)
    wanted = sorted({row % held for row in (range(held) if rows is None else rows)})
    if not any(row < size for size in asked for row in wanted):
        raise UsageError(
            "There is nothing to compare a row alone with.",
            actual=f"rows {wanted}, sizes {list(asked)}, of a batch of {held}",
            expected="a size above 1, and a row that lies in it",
        )
    alone = {row: _outputs(model, _one_row(batch, row)) for row in wanted}
    failed: list[tuple[int, int, float]] = []
    for size in asked:
        outputs = _outputs(model, arguments(batch, Size(size)))
        for row in (row for row in wanted if row < size):
            for slot, reference in alone[row].items():
                axes = (Axis(1, size, (row,)),)
                compared = compare_payloads(*counterparts(reference, outputs[slot], axes))
                if compared.status != "agrees":
                    failed.append((size, row, compared.value("max_abs") or 0.0))
    pairs = {(size, row) for size, row, _ in failed}
    if failed and not _allowed(model, batch, pairs, allowed):
        size, row = min(pairs)
        watch.failed = replace(_swept(model, batch, row, [size]), pairs=_pairs(failed, asked, len(wanted)))
        raise Differs(watch.failed, allowed)


def _allowed(model: Any, batch: Any, failed: set[tuple[int, int]], allowed: Verdict) -> bool:
    """Whether every row that differs does so by no more than is allowed, in every size in which it does."""
    if allowed is Verdict.IDENTICAL:
        return False
    return all(
        _swept(model, batch, row, [size for size, other in failed if other == row]).verdict.within(allowed)
        for row in dict.fromkeys(row for _, row in failed)
    )


def _swept(model: Any, held: Any, row: int, against: Sequence[int]) -> Sweep:
    """A row alone against the same row as the first of larger batches."""
    return sweep(model, lambda batch: _starting(held, row, batch), batch=(1, *sorted(against)))


def _sizes(given: Sizes | None, held: int) -> tuple[int, ...]:
    if given is not None:
        return tuple(size for size in sizes(given) if size > 1)
    found = {2**power for power in range(1, held.bit_length()) if 2**power <= held} | {held}
    return tuple(sorted(size for size in found if size > 1))


def _one_row(batch: Any, row: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    held = rows_of(batch)
    return arguments(_rows(batch, slice(row, row + 1), held), Size(1))


def _outputs(model: Any, given: tuple[tuple[Any, ...], dict[str, Any]]) -> dict[str, Payload]:
    args, kwargs = given
    adapter = for_target(model, (*args, *kwargs.values()))
    return {slot: adapter.to_payload(value) for slot, value in adapter.run(model, args, kwargs).plain()}


def _pairs(failed: Sequence[tuple[int, int, float]], asked: Sequence[int], rows: int) -> Pairs:
    size, row, largest = max(failed, key=lambda one: one[2])
    differ = {size for size, *_ in failed}
    return Pairs(
        differ=len({(size, row) for size, row, _ in failed}),
        tried=sum(min(size, rows) for size in asked),
        max_abs=largest,
        size=size,
        row=row,
        sizes=tuple(sorted(differ)),
        agree=tuple(size for size in asked if size not in differ),
    )


def _starting(batch: Any, row: int, size: int) -> tuple[Any, ...] | dict[str, Any]:
    """Arguments of ``size`` rows whose first is ``row`` and whose others follow in order."""
    held = rows_of(batch)
    order = [row, *(n for n in range(held) if n != row)]
    args, kwargs = arguments(_rows(batch, np.array(order), held), Size(size))
    return kwargs or args


def _rows(batch: Any, chosen: Any, held: int) -> Any:
    """The arguments with the chosen rows of everything that has as many rows as the batch."""
    return mapped(batch, lambda value: value[chosen] if tuple(value.shape)[:1] == (held,) else value)
