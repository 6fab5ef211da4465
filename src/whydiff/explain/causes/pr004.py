"""PR004 autocast-policy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whydiff.explain.causes._explained import Finding, PlaceRule, View
from whydiff.explain.causes._precision import autocast, in_the_other_dtype, narrowing
from whydiff.records import Evidence, Remedy, Verdict


class AutocastPolicy(PlaceRule):
    """An autocast region casts the inputs of ops on one side only.

    What it detects:
        Values that are rounded by casts inside an autocast region, where the other side is in no such region
        or in one of another dtype.

    Why it happens:
        Training runs under ``torch.autocast`` and evaluation does not (or the other way round); a trainer or
        accelerator library opens the region; the region ends before the loss or the last layer on one side;
        float16 on one device and bfloat16 on the other.

    Evidence required:
        The recorded autocast dtypes of both sides' ops differ, one side's value is rounded there by an op
        that does nothing else, and in float64 both sides compute the same.

    Look-alikes:
        PR002 and PR003 if the program itself casts, outside any region. Weights that are stored in 16 bits are
        ST003.

    Example:
        A linear layer inside ``torch.autocast("cpu", dtype=torch.bfloat16)`` and outside.

    Remedy:
        Open the same region on both sides, or none.

    How it is verified:
        By replay: the casts are left out and the ops compute in the reference's dtypes, as they would outside
        the region (``set-dtype``); the outputs must become equal bit for bit. The verdict is precision.

    References:
        PyTorch, Automatic Mixed Precision package (torch.amp), autocast op reference; Micikevicius et al.,
        arXiv:1710.03740.
    """

    code = "PR004"
    name = "autocast-policy"
    says = "the candidate runs {candidate}, the reference {reference}"
    yields_to = ("PR001",)

    def explain(self, view: View) -> Finding | None:
        """Whose region rounds here."""
        found = narrowing(view)
        if found is None or not (found.casts or found.readers):
            return None
        pairs = found.readers or ()
        regions = [
            autocast(view.case, (found.casts[-1] if found.casts and found.side == side else pairs[0][side]), side)
            if found.casts or pairs
            else ""
            for side in (0, 1)
            if (found.casts and found.side == side) or pairs
        ]
        if len(regions) != 2 or regions[0] == regions[1]:
            return None
        name = ("reference", "candidate")[found.side]
        evidence = Evidence(
            f"the {name} rounds to {found.dtypes[found.side]} {_spoken(regions[found.side])}, "
            f"the other side runs {_spoken(regions[1 - found.side])}; in float64 both compute the same",
            {
                "side": name,
                "reference_region": regions[0],
                "candidate_region": regions[1],
                "reference_dtype": found.dtypes[0],
                "candidate_dtype": found.dtypes[1],
                "apart_in_float64": view.apart,
            },
        )
        return Finding(
            self.code,
            tuple(regions),
            Verdict.PRECISION,
            (evidence,),
            in_the_other_dtype(view.case, found) or view.replace_op(),
            {
                "reference": _spoken(regions[0]),
                "candidate": _spoken(regions[1]),
                "regions": tuple(regions),
                "dtype": found.dtypes[0],
            },
        )

    def remedy(self, finding: Finding) -> Remedy:
        """The reference's region, around this part of the candidate; the device is that of what the part is given."""
        facts = finding.facts
        ours, theirs = facts["regions"]
        if not ours:
            return Remedy(
                "Switch autocast off around this part of the candidate.",
                "with torch.autocast(x.device.type, enabled=False):  # x: its input\n    ...\n",
                undoes="either",
            )
        begins = "" if theirs else " (a worker thread and a backward pass that recomputes begin without it)"
        return Remedy(
            f"Run this part of the candidate {facts['reference']}, as the reference does{begins}.",
            f"with torch.autocast(x.device.type, dtype=torch.{facts['dtype']}):\n    ...  # x: its input\n",
            undoes="either",
        )

    def example(self) -> tuple[Any, Any]:
        """A layer inside an autocast region against the same layer in one that is switched off."""
        import torch

        torch.manual_seed(0)
        linear = torch.nn.Linear(16, 8)
        x = torch.randn(4, 16)

        def run(enabled: bool) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                return torch.tanh(linear(x))

        return (lambda: run(False)), (lambda: run(True))

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The region is open on both sides, or rounds nothing, or is a small part: what differs is a factor."""
        import torch

        torch.manual_seed(0)
        linear = torch.nn.Linear(16, 8)
        x = torch.randn(4, 16)

        def inside(factor: float = 1.0, enabled: bool = True) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                return torch.tanh(linear(x).float() * factor)

        yield (lambda: inside()), (lambda: inside(0.5))
        yield (lambda: torch.tanh(linear(x))), (lambda: inside(0.5))
        yield (lambda: torch.tanh(linear(x))), (lambda: inside(1.001, enabled=False))


def _spoken(region: str) -> str:
    return f"under autocast to {region}" if region else "without autocast"


REGISTER = AutocastPolicy()
