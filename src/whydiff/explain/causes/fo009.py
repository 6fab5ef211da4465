"""FO009 rows-mixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.errors import WhydiffError
from whydiff.explain.beside import OTHERS, REPEAT, first_moved, larger, repeating, twins
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._beside import moved_beside
from whydiff.explain.filled import Filled, Told, filled, told
from whydiff.explain.sides import Side, opposite
from whydiff.numbers.tolerance import SCALING_FLOOR
from whydiff.records import Call, Cause, Evidence, Experiment, Intervention, Remedy, Trace, Verdict


class RowsMixed(CauseRule):
    """What a row gives depends on the rows beside it in the batch.

    What it detects:
        Runs of other batch sizes whose common rows differ at any precision, because an op takes something over the
        whole batch: a mean, a variance, a maximum, a capacity, a rank. Or runs of one batch size, of which one fills
        the batch up (to a size that it is compiled for, or that devices divide) and cuts the result.

    Why it happens:
        A batch norm without running statistics uses the batch's in evaluation too; a scale or a maximum is taken
        over all axes instead of each row's; experts with a fixed capacity refuse the tokens that come late.

    Evidence required:
        Carried out in float64, the larger run gives the common rows other results when the rows beside them are made
        copies of them. The first op whose rows change is named, or what it reads of all rows (a maximum, a mean). The
        smaller run does not look at those rows itself (as one does that keeps them in a cache). What fills a batch up
        is one number everywhere, or copies of rows.

    Look-alikes:
        SH001 if the results agree in float64: another kernel. IN001 if the common rows themselves differ. FO008 where
        both runs have the same batch and one takes a statistic over a group of it.

    Example:
        A batch norm without running statistics, on one image and on four.

    Remedy:
        Compute it for each row alone, or with statistics that do not depend on the batch.

    How it is verified:
        By replay: the rows that only the candidate has become copies of the common ones (``repeat-rows``), and the
        outputs must become the reference's (but for rounding). A single row has no others that could be put beside it,
        so it is located, never confirmed. Where the recorded larger run gives the same beside copies, the live one is run
        again beside other rows (``other-rows``), by which Python may decide otherwise: that only locates.

    References:
        Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167, section 3.1; Fedus et al., Switch Transformers,
        arXiv:2101.03961, section 2.2 (expert capacity).
    """

    code = "FO009"
    name = "rows-mixed"
    says = "what a row gives depends on the rows beside it in the batch"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause, if making the other rows copies changes what the common ones give."""
        found = larger(case.localization.axes)
        if not case.replayable:
            return
        if not case.localization.axes:
            yield from self._filled_up(case)
        if found is None:
            return
        axis, side = found
        trace = case.trace(side)
        steps = repeating(trace, axis)
        before = case.experiments.apart_if_told((), on=side)
        if not steps or before is None or before <= SCALING_FLOOR or _known_to_both(case, side, steps):
            return
        call = first_moved(trace, steps, axis, SCALING_FLOOR)
        if call is not None:
            call = _taken_over_all(case, side, trace, call)
            yield self._cause(side, call, steps, (before, case.experiments.apart_if_told(steps, on=side)))
        elif case.localization.origins:
            yield from self._by_running(case, side, steps)

    def _by_running(self, case: Case, side: Side, steps: tuple[Intervention, ...]) -> Iterator[Cause]:
        """One cause, if the live program gives the common rows other results beside other rows.

        Python may decide by the values of all rows what is computed; a record of that does not follow.
        """
        found = moved_beside(case, side, steps)
        if found is None:
            return
        text = (
            f"run again with {OTHERS[found.how]} in the place of the rows beside the common ones, the {side} gives these "
            f"results that lie {found.apart:.1e} of their size from its own"
        )
        reaches = "; they are the other run's" if found.reaches else ""
        shown = Experiment(
            interventions=found.steps,
            prediction="the common rows' results change",
            outcome=f"they change by {found.apart:.1e} of their size{reaches}",
            status="confirmed",
            method="rerun",
        )
        yield self.cause(
            site=str(case.localization.origins[0].site.at("")),
            verdict=Verdict.SEMANTIC,
            evidence=(Evidence(text + reaches, {"side": side, "how": found.how, "apart": found.apart}),),
            remedy=Remedy("Compute every row alone, or with limits and statistics that are no batch's."),
            experiments=(shown,),
            status="located",
            reason="the rows beside them change what the common rows give: that shows where, not why",
        )

    def _filled_up(self, case: Case) -> Iterator[Cause]:
        """One cause, if one run fills its batch up and what it fills it with changes the outputs."""
        try:
            found = filled(case)
            seen = None if found is None else told(case, found, SCALING_FLOOR)
        except WhydiffError:  # it cannot be carried out in float64: nothing is known
            return
        if found is None or seen is None:
            return
        before = case.experiments.apart_if_told((), on=found.side)
        if (
            before is None or before > SCALING_FLOOR
        ):  # rows that say nothing new (copies of all the others) change nothing
            yield self._of_filling(found, seen)

    def _of_filling(self, found: Filled, seen: Told) -> Cause:
        at, rows = found.event.site.at(""), found.total - found.count
        evidence = Evidence(
            f"at {at} the {found.side} fills its {found.count} rows up to {found.total}; with copies of its own rows in "
            f"their place, {seen.moved.site} gives them other results in float64",
            {"side": found.side, "rows": found.count, "filled_up_to": found.total, "site": str(seen.moved.site)},
        )
        shown = Experiment(
            interventions=(Intervention(REPEAT, str(found.event.site), (found.start, found.count)),),
            prediction="the rows' results change",
            outcome=f"with copies of its rows in the filling's place the {found.side}'s outputs move by {seen.apart:.1e} of "
            "their size in float64",
            status="confirmed",
        )
        return self.cause(
            site=str(seen.moved.site),
            verdict=Verdict.SEMANTIC,
            evidence=(evidence,),
            remedy=Remedy(
                f"Leave the {rows} rows that fill the batch up out of what {seen.moved.site.op} takes over all rows: weigh "
                "them with 0, or use statistics that are no batch's."
            ),
            experiments=(shown,),
            status="located",
            reason="what fills the batch up changes what the rows give: that shows where, not that nothing else does",
            says=f"the {found.side} fills the batch up from {found.count} to {found.total} rows, which change what the "
            "others give",
        )

    def _cause(
        self, side: Side, call: Call, steps: tuple[Intervention, ...], apart: tuple[float, float | None]
    ) -> Cause:
        before, after = apart
        gone = after is not None and after <= SCALING_FLOOR
        evidence = Evidence(
            f"with copies of the common rows beside them, {call.site} of the {side} gives them other results in float64",
            {"side": side, "site": str(call.site), "apart": before, "apart_with_copies": after},
        )
        shown = Experiment(
            interventions=steps,
            prediction="the common rows' results change",
            outcome=f"with copies of them beside them they lie {after:.1e} of their size from the other run's in float64, and "
            f"{before:.1e} before"
            if after is not None
            else f"with copies of them beside them they change in float64; before they lie {before:.1e} of their size from "
            "the other run's",
            status="confirmed",
        )
        taken = gone and side == "candidate"
        return self.cause(
            site=str(call.site),
            verdict=Verdict.SEMANTIC,
            evidence=(evidence,),
            remedy=Remedy(f"Compute {call.site.op} for each row alone, or with statistics that are no batch's."),
            interventions=steps if taken else (),
            experiments=() if taken else (shown,),
            status="inconclusive" if taken else "located",
            reason="" if taken else "the rows beside them change what the common rows give: that shows where, not why",
        )

    def example(self) -> tuple[Any, Any]:
        """A batch norm without running statistics: one row of two, and of eight."""
        import torch

        torch.manual_seed(0)
        x = torch.randn(8, 6)

        def run(x: Any) -> Any:
            return torch.nn.functional.batch_norm(torch.tanh(x), None, None, training=True)

        return lambda: run(x[:2]), lambda: run(x)[:2]

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Rows that do not meet: another kernel, another weight (beside a filled-up batch too), other common rows.

        And rows that change nothing where they meet: a whole batch beside itself has the same statistics.
        """
        import copy

        import torch

        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(600, 64), torch.nn.LayerNorm(64))
        x = torch.randn(16, 600)
        other: Any = copy.deepcopy(model)
        with torch.no_grad():
            other[0].weight[3] *= 1.1
        yield (lambda: model(x[:2])), (lambda: model(x)[:2])
        yield (lambda: model(x[:2])), (lambda: other(x)[:2])
        yield (lambda: model(x[:3])), (lambda: other(torch.nn.functional.pad(x[:3], (0, 0, 0, 5)))[:3])
        yield (lambda: model(x[:2])), (lambda: model(torch.cat([x[:2] + 1e-3, x[2:]]))[:2])
        few, norm = x[:6, :10].contiguous(), torch.nn.BatchNorm1d(10, track_running_stats=False)
        yield (lambda: norm(few)), (lambda: norm(torch.cat([few, few]))[:6])


def _taken_over_all(case: Case, side: Side, trace: Trace, moved: Call) -> Call:
    """The op that takes something over all rows, where what it gives has no rows itself and reaches the first that move.

    Else the first op whose rows move.
    """
    number = ("reference", "candidate").index(side)
    totals = {
        origin.calls[number]
        for origin in case.localization.origins
        if origin.kind == "region" and origin.comparison.status == "not_compared"
    }
    before, waiting = set[int](), [moved.index]
    while waiting:
        reads = {event.producer for event in trace.calls[waiting.pop()].reads if event.producer >= 0} - before
        before |= reads
        waiting += reads
    return trace.calls[max(totals & before, default=moved.index)]


def _known_to_both(case: Case, side: Side, steps: tuple[Intervention, ...]) -> bool:
    """Whether the smaller run looks at the rows beside them as well, in some other way."""
    traces: dict[Side, Trace] = {"reference": case.reference, "candidate": case.candidate}
    smaller = opposite(side)
    own = twins(traces[side], traces[smaller], steps)
    apart = case.experiments.apart_if_told
    return bool(own) and apart(own, on=smaller) != apart((), on=smaller)


REGISTER = RowsMixed()
