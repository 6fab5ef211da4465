"""ST004 uninitialised-buffer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, plays
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule, StateView
from whydiff.explain.causes._differs import reading
from whydiff.explain.causes._impostors import changed
from whydiff.explain.causes._remedy import copy_over, reachable
from whydiff.explain.causes._state import Difference, differences
from whydiff.numbers.formats import FORMATS
from whydiff.numbers.metrics import is_integer, known_dtypes, values
from whydiff.numbers.tolerance import GARBAGE_EXPONENT, GARBAGE_JUMP
from whydiff.records import Cause, Evidence, Intervention, Payload, Remedy, Trace, Verdict

_LARGEST = tuple(FORMATS[dtype].largest for dtype in ("float16", "float32", "float64", "bfloat16"))


def garbage_in(reference: Payload, candidate: Payload) -> tuple[str, Mapping[str, Any]] | None:
    """The side that looks uninitialised while the other looks regular, and the numbers behind it: only ever weak evidence.

    A finite element is wild if its magnitude lies outside 2**-E … 2**E with E = `GARBAGE_EXPONENT` and it is
    neither zero nor the largest value of a float dtype (masks hold that on purpose). Reinterpreted memory
    jumps: a wild element counts only if both of its nonzero neighbours are 2**J away, J = `GARBAGE_JUMP`, so
    that a decaying table, wild at its end, does not count.

    Returns:
        (side, data), or None: neither side, or both.
    """
    sides = {"reference": _numbers(reference), "candidate": _numbers(candidate)}
    if any(found is None for found in sides.values()):
        return None
    wild = [side for side, found in sides.items() if found and found["jumping"]]
    regular = [side for side, found in sides.items() if found and not found["wild"] and not found["nan"]]
    if len(wild) == 1 and len(regular) == 1:
        return wild[0], dict(sides[wild[0]] or {})
    return None


def _numbers(payload: Payload) -> dict[str, Any] | None:
    if payload.dtype not in known_dtypes() or is_integer(payload.dtype) or payload.dtype.startswith("complex"):
        return None
    line = values(payload.bits, payload.dtype).reshape(-1).astype(np.float64)
    magnitude = np.abs(line)
    finite = np.isfinite(line) & (line != 0)
    for largest in _LARGEST:
        finite &= magnitude != largest
    exponents = np.log2(magnitude[finite])
    wild = np.abs(exponents) > GARBAGE_EXPONENT
    jumping = 0
    if exponents.size > 1:
        jump = np.abs(np.diff(exponents))
        nearest = np.minimum(np.r_[np.inf, jump], np.r_[jump, np.inf])
        jumping = int(np.count_nonzero(wild & (nearest > GARBAGE_JUMP)))
    tiny = {"float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-14}.get(payload.dtype, 2.0**-1022)
    return {
        "elements": int(line.size),
        "wild": int(np.count_nonzero(wild)),
        "jumping": jumping,
        "nan": int(np.count_nonzero(np.isnan(line))),
        "subnormal": int(np.count_nonzero(finite & (magnitude < tiny))),
        "largest": float(np.max(magnitude[finite], initial=0.0)),
        "smallest": float(np.min(magnitude[finite], initial=np.inf)) if finite.any() else 0.0,
    }


class UninitialisedBuffer(CauseRule):
    """Memory that nobody wrote is read as if it held values.

    What it detects:
        Three things of different strength. *Strong*: an operator reads memory that an allocation such as
        ``empty`` returned and that no operator wrote before. *Loaded again*: a differing buffer of a live model that
        knows where it came from (transformers' ``name_or_path``), and that loading leaves unwritten. *Weak*: a buffer
        that existed before the run holds what reinterpreted memory looks like (magnitudes far outside of any
        table's, jumping from element to element) while the other side's is regular.

    Why it happens:
        ``torch.empty`` where zeros were meant; a model that was built without memory (the meta device)
        and materialised by ``to_empty``, while the checkpoint has no entry for a buffer that is not
        saved; a cache that is read further than it was written.

    Evidence required:
        Strong: the recorded operator, on either side. Loaded again: the model is loaded once more from its files
        while new memory is filled with NaN, and the buffer is nothing but NaN; then zeros and plausible leftovers are
        told from values as well. Weak: how many elements lie outside 2**-64 …
        2**64 and 2**32 away from both neighbours, on one side, with none on the other; parameters and
        tied tensors are left alone.

    Look-alikes:
        ST002, an ordinary buffer with other values: a mask filled with the dtype's lowest value,
        infinities and decaying tables are regular here. ND001, if the leftovers change from run to run.

    Example:
        A table of the candidate holds the halves of memory addresses, as freshly allocated memory often
        does.

    Remedy:
        Write the tensor where it is made: zeros, or the formula again after materialising.

    How it is verified:
        A buffer that existed before the run: the candidate runs again with the reference's tensor
        (``restore-state``) and must become equal bit for bit. That shows where, and is located only: what nobody
        wrote cannot be written into the reference, and numbers of very different sizes may be meant. A read inside
        the run has no experiment, since the memory's content is not reproducible; it stays inconclusive.

    References:
        PyTorch, torch.empty, torch.nn.Module.to_empty and torch.utils.deterministic.fill_uninitialized_memory;
        huggingface/transformers issue 48892.
    """

    code = "ST004"
    name = "uninitialised-buffer"

    def explain_state(self, view: StateView) -> tuple[str, Mapping[str, Any]] | None:
        """(the side that looks like memory nobody wrote, the numbers behind it)."""
        roles = view.reference.role, view.candidate.role
        if view.payloads is None or "parameter" in roles or view.tied or len(view.names) > 1:
            return None
        sides = _left_unwritten(view.case, view.reference.name, view.candidate.name)
        if sides:
            return " and ".join(sides), {"sides": sides, "strength": "loaded again"}
        return garbage_in(*view.payloads)

    def put_in(self, case: Case, cause: Cause) -> tuple[Intervention, ...]:
        """None: memory that nobody wrote cannot be written."""
        return ()

    def detect(self, case: Case) -> Iterator[Cause]:
        """Reads of unwritten memory first, then buffers that look like it."""
        for side, trace in (("reference", case.reference), ("candidate", case.candidate)):
            sites = list(_unwritten_reads(trace))
            if sites:
                yield self.cause(
                    site=sites[0],
                    verdict=Verdict.SEMANTIC,
                    evidence=(
                        Evidence(
                            f"strong: {len(sites)} operator(s) of the {side} read unwritten memory, first {sites[0]}",
                            {"side": side, "strength": "strong", "sites": sites},
                        ),
                    ),
                    remedy=Remedy("Write the memory before it is read: zeros instead of empty, or fill it."),
                    reason="the content of unwritten memory is not reproducible, so there is no experiment",
                )
        for difference in differences(case, self.code):
            yield self._buffer(case, difference, *difference.proof)

    def _buffer(self, case: Case, difference: Difference, side: str, data: Mapping[str, Any]) -> Cause:
        statement = (
            f"loading the model of the {side} again, into memory that was filled before, leaves the filling in "
            f"{difference.name}: nobody writes it when the model is loaded"
            if "sides" in data
            else f"weak: {data['wild']} of {data['elements']} elements of {difference.name} in the {side} have "
            f"magnitudes outside 2**-64 … 2**64 ({data['smallest']:.1e} … {data['largest']:.1e}), "
            f"{data['jumping']} of them far from both neighbours; the other side is regular"
        )
        return self.cause(
            site=difference.name,
            verdict=Verdict.SEMANTIC,
            evidence=(
                Evidence(statement, {"strength": "weak", **difference.data, **data, "side": side}),
                *reading(case, [difference]),
            ),
            remedy=Remedy(
                "Write the tensor where it is made, again after materialising a model that was built "
                "without memory; a buffer that is not saved is not repaired by a checkpoint.",
                copy_over(case, reachable(case, [difference])) if side == "candidate" else "",
            ),
            interventions=difference.interventions,
        )

    def example(self) -> tuple[Any, Any]:
        """A table of zeros against the bits that freshly allocated memory often holds."""
        import copy

        import torch

        class Shifted(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = torch.nn.Linear(8, 8)
                self.register_buffer("shift", torch.zeros(8), persistent=False)

            def forward(self, x: Any) -> Any:
                return self.linear(x) + self.shift

        torch.manual_seed(0)
        reference = Shifted()
        candidate: Any = copy.deepcopy(reference)
        address = torch.tensor([0x5C3A41B0, 0x00007F3A, 0x1C60A2E0, 0x00007F3A, 0x63C1B7F0, 0x000055D2, 0, 0x31])
        candidate.shift = address.to(torch.int32).view(torch.float32)
        x = torch.randn(4, 8)
        return lambda: reference(x), lambda: candidate(x)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Tables that are meant so: numbers of very different sizes, a mask's lowest value, a decaying one."""
        import torch

        def far_apart(candidate: Any) -> None:
            exponents = torch.tensor([-80.0, 85.0, -70.0, 60.0, -75.0, 82.0, -60.0, 70.0])
            candidate.table = torch.exp(exponents)

        def masked(candidate: Any) -> None:
            candidate.table = torch.where(torch.arange(8) % 2 == 0, torch.finfo(torch.float32).min, 0.0)

        def decaying(candidate: Any) -> None:
            candidate.table = 10.0 ** -(torch.arange(8) * 5.0)

        yield changed(far_apart)
        yield changed(masked)
        yield changed(decaying)


def _left_unwritten(case: Case, *names: str) -> tuple[str, ...]:
    """Sides whose state of this name loading leaves unwritten."""
    sides = ("reference", "candidate")
    known = case.shared("left unwritten", lambda: [_unwritten(case, number) for number in (0, 1)])
    return tuple(side for side, name, found in zip(sides, names, known, strict=True) if name in found)


def _unwritten(case: Case, number: int) -> frozenset[str]:
    """Buffers of a live side that loading leaves unwritten; none of a trace."""
    run, leaves = case.runs[number], case.traces[number].leaves
    names = [leaf.name for leaf in leaves if leaf.role in ("buffer", "non_persistent_buffer")]
    return run.unwritten(names) if run is not None and names else frozenset()


def _unwritten_reads(trace: Trace) -> Iterator[str]:
    """Calls whose numbers come from unwritten memory; ops that only look at its shape, or find no element, do not count."""
    for call in trace.calls:
        if call.kind == "view" or plays(trace.framework, call.site.op, Role.SHAPE_ONLY):
            continue
        for position, event in enumerate(call.reads):
            if event.uninitialised and position not in call.mutates and 0 not in event.spec.shape:
                yield str(call.site)
                break


REGISTER = UninitialisedBuffer()
