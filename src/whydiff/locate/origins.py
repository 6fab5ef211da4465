"""Where the difference begins: every origin in one resynchronised pass.

Method (``docs/explanation/origins.md``): both programs are executed in step. Before a paired call its reads are
compared; where they disagree because an unpaired region made them, the region is an origin. After it its
writes are compared; where they differ although nothing upstream does, the call is an origin. Each time the
candidate is given the reference's tensor, so that every later mismatch is an origin of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import Executor, Progress, Value
from whydiff.locate.counts import replay_counts
from whydiff.locate.here import Here
from whydiff.locate.mixing import Mixing
from whydiff.locate.reshaped import reshaped
from whydiff.locate.resynchronised import OnOrigin, Resynchronised, Watcher
from whydiff.locate.upstream import Upstream, named
from whydiff.pair.lockstep import Lockstep, Look, comparison_of
from whydiff.pair.operands import spelled_out
from whydiff.pair.slices import Axis, same_but_for_sizes
from whydiff.records import Alignment, Call, Comparison, Event, Evidence, Origin, Verdict


def find_origins(
    reference: Executor,
    candidate: Executor,
    alignment: Alignment,
    progress: Progress | None = None,
    *,
    axes: tuple[Axis, ...] = (),
    on_origin: OnOrigin | None = None,
    measured: bool = True,
) -> Resynchronised:
    """Resynchronised walk. Executors are used up."""
    step = Lockstep(reference, candidate, alignment, axes)
    return walk_origins(step, progress, on_origin=on_origin, measured=measured)


def walk_origins(
    step: Lockstep,
    progress: Progress | None = None,
    *,
    stage: str = "resynchronise",
    on_origin: OnOrigin | None = None,
    watcher: Watcher | None = None,
    measured: bool = True,
) -> Resynchronised:
    """The same walk over a given pair of replays, with somebody watching; without measurements if nobody reads them."""
    return _Origins(step, on_origin, watcher or Watcher(), measured).find(progress, stage)


class _Origins:
    """One resynchronised walk."""

    def __init__(self, step: Lockstep, on_origin: OnOrigin | None, watcher: Watcher, measured: bool) -> None:
        self.step, self.on_origin, self.watcher, self.measured = step, on_origin, watcher, measured
        self.calls = (step.reference.trace.calls, step.candidate.trace.calls)
        alignment = step.alignment
        self.partner = {p.reference: p.candidate for p in alignment.pairs}
        self.upstream = Upstream(step)
        self.origins: list[Origin] = []
        self.propagated = 0
        self.stuck: set[tuple[int, int]] = set()
        self.unmapped: list[Look] = []
        self.reads: list[Look] = []
        self.mixing, self.here = Mixing(step), Here(step)
        self.mixed: list[int] = []
        self.returned_mixed = False
        self.accounted: bool | None = None

    def find(self, progress: Progress | None, stage: str) -> Resynchronised:
        watcher = self.watcher
        for call_r, call_c in self.step.walk(progress, stage):
            if watcher.done:
                break
            self.unmapped, self.mixed = [], []
            watcher.entering(call_r, call_c)
            disagreeing = self._resynchronise_reads(call_r, call_c)
            if call_r.kind == "return":
                agrees = not disagreeing
                self.accounted = agrees if self.accounted is None else self.accounted and agrees
                if self.returned_mixed:  # what was not put into the candidate cannot be accounted for
                    self.accounted = None
                self._returned_leaves(call_r, call_c, disagreeing)
                watcher.returned(call_r, call_c)
                continue
            watcher.executing(call_r, call_c)
            alone = self.here.candidate(call_r, call_c) if disagreeing else None
            self.here.before(call_r)
            self.step.execute(call_r, call_c)
            self._judge_writes(call_r, call_c, disagreeing, alone)
            watcher.resynchronised(call_r, call_c)
        return Resynchronised(
            origins=tuple(self.origins),
            accounted=self.accounted,
            propagated=self.propagated,
            counts=(*replay_counts(self.step), *self.mixing.counts()),
            axes=self.step.axes,
        )

    def _comparison(self, look: Look) -> Comparison:
        return comparison_of(self.step, look) if self.measured else Comparison("differs")

    # ------------------------------------------------------------------ reads

    def _resynchronise_reads(self, call_r: Call, call_c: Call) -> list[tuple[Look, str, tuple[str, ...]]]:
        """Looks that still disagree: (look, why, differing leaves)."""
        left = []
        self.reads = self.step.looks(call_r, call_c, "reads")
        for look in self.reads:
            if look.unmapped:
                self.unmapped.append(look)
            if look.agrees is not False:
                continue
            er, ec = look.reference, look.candidate
            if er.producer == -1 and ec.producer == -1:
                kind, names = self.upstream.leaf_kind(er, ec)
                left.append((look, kind, names))
                continue
            roots = self.mixing.roots_of(look)
            if roots and call_r.kind != "return":
                self.mixed += roots
                continue
            if roots:
                self._beginnings(roots)
                continue
            if self.partner.get(er.producer) == ec.producer and er.producer >= 0:
                stuck = (er.producer, ec.producer) in self.stuck
                left.append((look, "propagated" if stuck else "layout", ()))
                continue
            if not self._region(call_r, call_c, look):
                continue
            if not self.step.resynchronise(look, call_c):
                left.append((look, "propagated", ()))
        return left

    def _beginnings(self, roots: Sequence[int]) -> None:
        """A returned value has no counterpart: the origins are where that begins."""
        self.returned_mixed = True
        known = {origin.calls for origin in self.origins}
        for one in (self.mixing.roots[n] for n in roots):
            call_r, call_c = one.calls
            if (call_r.index, call_c.index) not in known:
                self.origins.append(
                    Origin(
                        site=one.look.reference.site,
                        candidate_site=one.look.candidate.site,
                        kind="region",
                        verdict=Verdict.INCONCLUSIVE,
                        comparison=Comparison("not_compared", one.why),
                        calls=(call_r.index, call_c.index),
                        leaves=(),
                        region=(),
                        evidence=(Evidence(f"it has no counterpart, and the outputs depend on it: {one.why}"),),
                    )
                )

    def _region(self, call_r: Call, call_c: Call, look: Look) -> bool:
        """Note an unpaired region as an origin; False: its value has no counterpart."""
        regions = self.upstream.of(0, look.reference), self.upstream.of(1, look.candidate)
        (inside_r, leaves_r, bounds_r), (inside_c, leaves_c, bounds_c) = regions
        if any((r, c) in self.stuck for r, c in self.partner.items() if r in bounds_r or c in bounds_c):
            self.propagated += 1
            return True
        roots = self.mixing.beyond(bounds_r, bounds_c)
        if roots and not self.mixing.close(look):
            if call_r.kind == "return":
                self._beginnings(roots)
            else:
                self.mixing.mark(look, roots)
                self.mixed += roots
            return False
        one = self.upstream.one_state(*regions)
        differing, kinds = named([one]) if one else self.upstream.differing(leaves_r, leaves_c)
        kind: Any = "region"
        if differing:
            kind = "input" if kinds <= {"input"} else "state"
        producer_r = self._producer(0, look.reference) or call_r
        producer_c = self._producer(1, look.candidate) or call_c
        sites = [self.calls[0][i].site for i in inside_r] + [self.calls[1][i].site for i in inside_c]
        evidence = [
            Evidence(
                f"{len(inside_r)} op(s) of the reference and {len(inside_c)} of the candidate have no one-to-one "
                "counterpart between agreeing inputs and this value",
                {
                    "reference_ops": [self.calls[0][i].target for i in inside_r],
                    "candidate_ops": [self.calls[1][i].target for i in inside_c],
                },
            )
        ]
        missing = sorted(set(leaves_r) ^ set(leaves_c))
        if missing:
            evidence.append(Evidence("read on one side only: " + ", ".join(missing), {"leaves": missing}))
        self.origins.append(
            Origin(
                site=producer_r.site,
                candidate_site=producer_c.site,
                kind=kind,
                verdict=Verdict.INCONCLUSIVE,
                comparison=self._comparison(look),
                calls=(producer_r.index, producer_c.index),
                leaves=differing,
                region=tuple(sites),
                evidence=tuple(evidence),
            )
        )
        if self.on_origin is not None:
            self.on_origin(self.step, producer_r, producer_c, look)
        return True

    def _producer(self, side: int, event: Event) -> Call | None:
        return self.calls[side][event.producer] if event.producer >= 0 else None

    def _returned_leaves(self, call_r: Call, call_c: Call, disagreeing: Any) -> None:
        for look, kind, names in disagreeing:
            if kind in ("state", "input", "layout"):
                self.origins.append(
                    Origin(
                        site=look.reference.site,
                        candidate_site=look.candidate.site,
                        kind=kind,
                        verdict=Verdict.INCONCLUSIVE,
                        comparison=self._comparison(look),
                        calls=(call_r.index, call_c.index),
                        leaves=names,
                    )
                )

    # ------------------------------------------------------------------ writes

    def _judge_writes(self, call_r: Call, call_c: Call, disagreeing: Any, alone: list[Value] | None) -> None:
        looks = self.step.looks(call_r, call_c, "writes")
        recorded = {id(look.reference): look for look in looks}  # what the candidate goes on with
        looks = self.here.looks(call_r, call_c, looks)
        self.watcher.executed(call_r, call_c, looks, alone)
        for look in looks:
            if look.agrees:
                self._agree(call_r, call_c, look, recorded[id(look.reference)])
        differing = [look for look in looks if look.agrees is False]
        if disagreeing and {kind for _, kind, _ in disagreeing} == {"layout"}:
            differing = [look for look in differing if not reshaped(self.step, look)]
        if not disagreeing:
            differing = [look for look in differing if self._corresponds(call_r, call_c, look)]
        if not differing:
            return
        worst = differing[0]
        kind, leaves, evidence = self._kind(call_r, call_c, disagreeing)
        comparison = self._comparison(worst)
        if kind == "propagated":
            self.propagated += 1
        else:
            own = self._own_difference(call_r, alone, looks)
            if own is not None:
                evidence.append(own[1])
            origin = Origin(
                site=worst.reference.site,
                candidate_site=worst.candidate.site,
                kind=kind,
                verdict=Verdict.INCONCLUSIVE,
                comparison=comparison,
                calls=(call_r.index, call_c.index),
                leaves=leaves,
                region=(),
                evidence=tuple(evidence),
            )
            self.origins.append(origin)
            if self.on_origin is not None:
                self.on_origin(self.step, call_r, call_c, worst)
            if own is not None and not own[0]:
                self.origins.append(replace(origin, kind="implementation", leaves=()))
        self._resynchronise_writes(call_r, call_c, [recorded[id(look.reference)] for look in differing])

    def _agree(self, call_r: Call, call_c: Call, look: Look, recorded: Look) -> None:
        """A written value agrees; if only as executed here, the candidate goes on with the recorded one."""
        if recorded.agrees:
            self.step.note_equal(look)
            return
        self.step.unjudged.append(str(look.reference.site))
        self._resynchronise_writes(call_r, call_c, [recorded])

    def _corresponds(self, call_r: Call, call_c: Call, look: Look) -> bool:
        """Whether a written value has a counterpart; else it depends on rows that only one run has, and is no origin."""
        if not self.mixed:
            return not self.mixing.begins(call_r, call_c, look)
        if self.mixing.close(look):
            return True
        self.mixing.mark(look, tuple(dict.fromkeys(self.mixed)))
        return False

    def _resynchronise_writes(self, call_r: Call, call_c: Call, differing: Sequence[Look]) -> None:
        for look in differing:
            if self.step.resynchronise(look):
                self.step.note_equal(look)
            else:
                self.stuck.add((call_r.index, call_c.index))

    def _own_difference(
        self, call_r: Call, alone: list[Value] | None, looks: Sequence[Look]
    ) -> tuple[bool, Evidence] | None:
        if not alone or len(alone) < len(looks) or any(look.map is not None for look in looks):
            return None
        same = self.here.gives_the_same(call_r, looks, alone)
        text = "gives the reference's output bit for bit" if same else "still gives another output"
        return same, Evidence(f"on the reference's inputs the candidate's op {text}", {"equal": same})

    def _kind(self, call_r: Call, call_c: Call, disagreeing: Any) -> tuple[Any, tuple[str, ...], list[Evidence]]:
        kinds = {kind for _, kind, _ in disagreeing}
        leaves = tuple(dict.fromkeys(name for _, _, names in disagreeing for name in names))
        for kind in ("propagated", "state", "input", "layout", "arguments"):
            if kind in kinds:
                text = ", ".join(leaves) if leaves else "the same values, looked at differently"
                return kind, leaves, [Evidence(f"it reads {text}", {"leaves": list(leaves)})]
        if self.mixed:
            root = self.mixing.roots[self.mixed[0]]
            return (
                "region",
                (),
                [
                    Evidence(
                        f"it is computed from values without a counterpart ({root.why}), and corresponds again",
                        {"begins": str(root.look.reference.site)},
                    )
                ],
            )
        if self.unmapped:
            look = self.unmapped[0]
            return (
                "region",
                (),
                [
                    Evidence(
                        f"it reads values that have no counterpart ({look.why}), so the runs do not compute it from "
                        "the same numbers",
                        {"reads": [str(one.reference.site) for one in self.unmapped]},
                    )
                ],
            )
        given = spelled_out(call_r, call_c), spelled_out(call_c, call_r)
        alike = same_but_for_sizes(*given, self.step.axes)
        made_up = not call_r.reads and call_r.arguments != call_c.arguments  # positions: they are no counterparts
        overload = call_r.site.op == call_c.site.op and call_r.target != call_c.target  # else one writes in place
        if not alike or made_up or overload:
            return (
                "arguments",
                (),
                [
                    Evidence(
                        "its inputs agree and its arguments differ",
                        {
                            "reference": [call_r.target, call_r.arguments],
                            "candidate": [call_c.target, call_c.arguments],
                        },
                    )
                ],
            )
        return "implementation", (), [Evidence(f"{self._agreeing(call_r, call_c)} and its output differs")]

    def _agreeing(self, call_r: Call, call_c: Call) -> str:
        """What of an op's inputs and arguments agrees bit for bit, in words."""
        looks = self.reads
        unknown = sum(look.agrees is None for look in looks)
        parts = sum(look.map is not None for look in looks)
        sizes = spelled_out(call_r, call_c) != spelled_out(call_c, call_r)
        if not (unknown or parts or sizes):
            return "its inputs and arguments agree bit for bit"
        text = "what corresponds of its inputs agrees bit for bit" if parts else "its inputs agree bit for bit"
        if unknown:
            text += f" ({unknown} of {len(looks)} could not be compared)"
        return f"{text}, its arguments agree{' but for sizes' if sizes else ''},"
