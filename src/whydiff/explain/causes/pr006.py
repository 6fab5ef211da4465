"""PR006 narrow-passage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.errors import PayloadError
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import Array, Finding, View, causes_of, number
from whydiff.explain.causes._looks import leaves, one_value
from whydiff.explain.causes._narrow_number import NarrowNumber, narrow_number
from whydiff.explain.causes._switched import causes_of_switches, converts
from whydiff.explain.sides import SIDES
from whydiff.numbers.formats import FORMATS, round_to
from whydiff.records import Call, Cause, Event, Evidence, Intervention, Remedy, Verdict

PR006 = "PR006"


class NarrowPassage(CauseRule):
    """A value passes through a narrower dtype on one side only, and comes back rounded.

    What it detects:
        The same value, reached by casts on one side or both, that was rounded to a narrower floating dtype on its way
        on one of them, or a constant that was made in it, or a tensor of one number that an op rounds to the dtype of
        the others, where it takes a plain number as it is: timesteps and positions through bfloat16, an embedding's
        factor in the model's dtype, probabilities through float16, ids or times in seconds through float32.

    Why it happens:
        A model is called with inputs cast to its own dtype; a helper ends in ``.to(x.dtype)``; integers beyond the
        significand of a dtype (256 for bfloat16, 2048 for float16, 2**24 for float32) take a detour through it. Both
        sides hold the same dtype afterwards, so nothing shows.

    Evidence required:
        Every element on either side is, bit for bit, the common source rounded by that side's casts, and the roundings
        differ; how many elements change and by how much. A constant that one side makes in a narrower dtype is, in
        every element, the other side's constant rounded to it.

    Look-alikes:
        PR002 if an op computes in the narrower dtype; PR003 if both sides round, at another place; PR004 inside an
        autocast region; ST003 if a stored tensor was rounded; IN001 if the value was handed over rounded. Another
        number, however close, is no rounding of this one.

    Example:
        Timesteps that pass through bfloat16 before they are embedded: 937.5 becomes 936.

    Remedy:
        Keep the value in the wider dtype until it is used.

    How it is verified:
        By replay: the detour is left out on one side (``remove-step``, or ``set-dtype`` at its casts), and made on the
        other side (``insert-step``, ``set-dtype``).

    References:
        IEEE 754-2019, section 4.3; huggingface/diffusers issue 9405 (timesteps cast to the model's dtype).
    """

    code = PR006
    name = "narrow-passage"
    says = "a value of the {side} passes through {through}"
    precedes = ("PR002", "PR003")
    yields_to = ("PR004",)

    def explain(self, view: View) -> Finding | None:
        """Which side's detour is narrower, if casts alone tell both values."""
        number = narrow_number(view)
        if number is not None:
            return _of_number(view, number)
        chains = [_chain(view, side) for side in (0, 1)]
        made = _made_narrow(view, chains)
        if made is not None:
            return made
        if not any(chain.casts for chain in chains) or not one_value(view.case, chains[0].source, chains[1].source):
            return None
        source = _source(view, chains[0])
        if source is None or chains[0].dtype != chains[1].dtype:
            return None
        reached = [one for chain in chains if (one := chain.rounded(source)) is not None]
        if len(reached) != 2 or not all(map(_same, reached, view.outputs)):
            return None
        changed = [int(np.count_nonzero(one != source)) for one in reached]
        side = int(changed[1] > changed[0])
        if changed[0] == changed[1]:
            return None
        through = chains[side].narrowest
        name, other = SIDES[side], SIDES[1 - side]
        moved = np.abs(reached[side] - source)
        evidence = Evidence(
            f"the {name} takes the value through {through}, the {other} does not: {changed[side]} of {source.size} "
            f"elements change, by at most {float(moved.max()):.3g} (of {float(np.abs(source).max()):.3g}); both sides' values "
            "are the source, rounded so, bit for bit",
            {
                "side": name,
                "through": through,
                "changed": changed[side],
                "elements": source.size,
                "largest": float(moved.max()),
                "sites": [str(call.site) for call in chains[side].casts],
            },
        )
        away, put = _experiments(view, chains, side)
        return Finding(
            PR006,
            (name, through, chains[side].dtype),
            Verdict.PRECISION,
            (evidence,),
            away,
            {"side": name, "through": through, "stays": chains[side].dtype},
            put_in=put,
        )

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side and dtype, and per setting that switches a detour on."""
        yield from causes_of(case, self, _remedy)
        yield from causes_of_switches(case, self, "casts")

    def example(self) -> tuple[Any, Any]:
        """A timestep that passes through bfloat16."""
        import torch

        steps, rates = torch.tensor([937.5, 833.25]), torch.linspace(0.001, 1.0, 8)
        return (lambda: torch.cos(steps[:, None] * rates), lambda: torch.cos(steps.bfloat16().float()[:, None] * rates))

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """A detour that truncates, one that adds a little on the way, and a value that is another one."""
        import torch

        steps, rates = torch.tensor([937.5, 833.25]), torch.linspace(0.001, 1.0, 8)
        yield (lambda: torch.cos(steps[:, None] * rates)), (lambda: torch.cos(steps.long().float()[:, None] * rates))
        yield (
            (lambda: torch.cos(steps[:, None] * rates)),
            (lambda: torch.cos(((steps + 0.25).bfloat16()).float()[:, None] * rates)),
        )
        yield (
            (lambda: torch.cos(steps.double().float()[:, None] * rates)),
            (lambda: torch.cos((steps.double() * 1.001).float()[:, None] * rates)),
        )
        yield (
            (lambda: rates * torch.tensor(6.6332496)),
            (lambda: rates * torch.tensor(6.5, dtype=torch.bfloat16).float()),
        )
        low, near = rates.bfloat16(), torch.tensor(6.9062, dtype=torch.bfloat16)
        yield (lambda: torch.cos(low * 48**0.5)), (lambda: torch.cos(low * near))


@dataclass(frozen=True, slots=True)
class _Chain:
    """Casts that lead to a value, the first of them first, and what they begin with."""

    casts: tuple[Call, ...]
    source: Event
    dtype: str

    def rounded(self, source: Array) -> Array | None:
        """The source as these casts leave it, in float64; None if a cast to integers drops fractions."""
        for call in self.casts:
            dtype = call.writes[0].spec.dtype
            if dtype in FORMATS:
                source = round_to(source, dtype)
            elif np.any(np.trunc(source) != source):
                return None
        return source

    @property
    def narrowest(self) -> str:
        """The floating dtype with the fewest significant bits on the way."""
        dtypes = [call.writes[0].spec.dtype for call in self.casts if call.writes[0].spec.dtype in FORMATS]
        return min(dtypes, key=lambda dtype: FORMATS[dtype].precision, default=self.dtype)


def _chain(view: View, side: int) -> _Chain:
    trace = view.case.traces[side]
    roles = for_framework(trace.framework).roles
    event = view.seen.results[side]
    dtype, casts = event.spec.dtype, list[Call]()
    while event.producer >= 0:
        call = trace.calls[event.producer]
        if converts(call, roles(call.site.op)):
            casts.append(call)
        elif not _copies(call, roles(call.site.op)):
            break
        event = call.reads[0]
    return _Chain(tuple(reversed(casts)), event, dtype)


def _copies(call: Call, roles: frozenset[Role]) -> bool:
    """Whether a call gives what it reads once more, as it is."""
    if Role.CAST not in roles or len(call.reads) != 1 or len(call.writes) != 1 or call.mutates:
        return False
    ours, theirs = call.reads[0].spec, call.writes[0].spec
    return (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)


def _made_narrow(view: View, chains: Sequence[_Chain]) -> Finding | None:
    """A constant that one side makes in a narrower dtype, and that is the other side's, rounded, in every element."""
    constants = [leaves(trace, c.source) for trace, c in zip(view.case.traces, chains, strict=True)]
    if not all(len(found) == 1 and found[0].role == "constant" for found in constants):
        return None
    dtypes = [found[0].spec.dtype for found in constants]
    if not all(dtype in FORMATS for dtype in dtypes) or chains[0].dtype != chains[1].dtype:
        return None
    widths = [FORMATS[dtype].precision for dtype in dtypes]
    side = int(widths[1] < widths[0])
    if widths[0] == widths[1] or chains[1 - side].casts or not chains[side].casts:
        return None
    try:
        payloads = view.case.payload(constants[0][0], "reference"), view.case.payload(constants[1][0], "candidate")
    except PayloadError:
        return None
    wide, narrow = number(payloads[1 - side]), number(payloads[side])
    if not _same(round_to(wide, dtypes[side]), narrow) or _same(wide, narrow):
        return None
    name, through, largest = SIDES[side], dtypes[side], int(np.abs(narrow.reshape(-1) - wide.reshape(-1)).argmax())
    evidence = Evidence(
        f"the {name} makes a constant in {through}: it holds {narrow.reshape(-1)[largest]:.6g} where the other side has "
        f"{wide.reshape(-1)[largest]:.6g}; all its {wide.size} elements are the other side's, rounded so, bit for bit",
        {
            "side": name,
            "through": through,
            "elements": wide.size,
            "sites": [str(call.site) for call in chains[side].casts],
        },
    )
    facts = {"side": name, "through": through, "stays": chains[side].dtype}
    key = (name, through, chains[side].dtype)
    return Finding(PR006, key, Verdict.PRECISION, (evidence,), view.replace_op(), facts)


def _of_number(view: View, found: NarrowNumber) -> Finding:
    """A number that an op takes rounded on one side."""
    name, other = SIDES[found.side], SIDES[1 - found.side]
    op = view.seen.operations[found.side].name
    how = (
        f"is given {found.narrow:.9g}, which is that rounded to"
        if found.made
        else f"takes it as {found.narrow:.9g}, in"
    )
    evidence = Evidence(
        f"the {other}'s {op} is given {found.wide:.9g}, the {name}'s {how} {found.dtype}; both results are what "
        "these numbers give, bit for bit",
        {"side": name, "through": found.dtype, "wide": found.wide, "narrow": found.narrow, "made": found.made},
    )
    away, put = found.experiments(view)
    facts = {"side": name, "through": found.dtype, "number": f"{found.wide:.9g}", "op": op}
    says = f"a number is rounded to {found.dtype} before the {name}'s {op} takes it"
    key = (name, found.dtype, "number", found.wide)
    return Finding(PR006, key, Verdict.PRECISION, (evidence,), away, facts, put_in=put, says=says)


def _source(view: View, chain: _Chain) -> Array | None:
    """The reference's common source in float64; None if it is not at hand."""
    if not chain.casts:
        return view.outputs[0]
    reads = [
        read
        for event, read in zip(view.seen.reads[0], view.seen.operations[0].reads, strict=False)
        if (event.storage, event.producer) == (chain.source.storage, chain.source.producer)
    ]
    return np.asarray(reads[0], np.float64) if reads else None


def _same(ours: Array, theirs: Array) -> bool:
    return ours.size == theirs.size and np.array_equal(ours.reshape(-1), theirs.reshape(-1), equal_nan=True)


def _experiments(
    view: View, chains: Sequence[_Chain], side: int
) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
    """What leaves the detour out on the candidate, or makes it there, and the other way round on the reference."""
    if not chains[1 - side].casts:
        return view.exchange_step(), ()
    if not all(for_framework(trace.framework).changes_calls for trace in view.case.traces):
        return view.replace_op(), ()
    straight = tuple(Intervention("set-dtype", str(call.site), chains[side].dtype) for call in chains[side].casts)
    last = chains[1 - side].casts[-1]
    detour = (Intervention("set-dtype", str(last.site), chains[side].narrowest),)
    return (straight, detour) if side == 1 else (detour, straight)


def _remedy(finding: Finding) -> Remedy:
    facts = finding.facts
    if "number" in facts:
        return Remedy(
            f"Give both sides' {facts['op']} the same number: {facts['number']} as it is, or rounded to {facts['through']} "
            f"as the {facts['side']} has it.",
            undoes="either",
        )
    return Remedy(
        f"Keep the value in {facts['stays']} in the {facts['side']} until it is used: it is cast to {facts['through']} on "
        "the way.",
        undoes=facts["side"],
    )


REGISTER = NarrowPassage()
