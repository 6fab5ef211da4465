"""What was found: what corresponds, what differs, where it starts and why."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from whydiff.records.trace import Site

Status = Literal["confirmed", "located", "inconclusive", "refuted"]
"""``confirmed``: taken away and put in; ``located``: an experiment shows that the difference starts there, and not why."""
STANDING = {"confirmed": "proven", "located": "starts here"}
"""What is said of a cause that an experiment speaks for, by its status."""
Direction = Literal["take_away", "put_in"]
"""``take_away``: the candidate without it against the reference; ``put_in``: the reference with it against the candidate."""
Undoes = Literal["", "either", "reference", "candidate"]
"""Where a remedy undoes its cause as the experiments do; ``either``: both sides alike; empty: it is another change."""
Left = Literal["", "nothing", "rounding", "others", "others_rounding", "elsewhere", "nowhere"]
"""Of a difference: ``nothing``; only ``rounding``; what ``others`` explain (nothing when they are changed too, or with
``others_rounding`` only rounding); what starts ``elsewhere``; places that differ are ``nowhere`` left; empty: more than
that, or it was not told."""


class Verdict(str, enum.Enum):
    """What a whole difference (or one origin) amounts to; see ``docs/explanation/verdicts.md``."""

    IDENTICAL = "identical"
    ROUNDING = "rounding"
    PRECISION = "precision"
    SEMANTIC = "semantic"
    UNSTABLE = "unstable"
    NONDETERMINISTIC = "nondeterministic"
    INCOMPARABLE = "incomparable"
    INCONCLUSIVE = "inconclusive"

    def __str__(self) -> str:
        return self.value

    @property
    def severity(self) -> int:
        """Rank from 0 (nothing to do) upwards; the overall verdict is the most severe material one."""
        return _SEVERITY[self]

    def within(self, allowed: Verdict) -> bool:
        """Whether it is no worse than what is allowed.

        ``inconclusive`` passes only where it was named: what nobody could decide was not allowed by allowing a decided
        difference.
        """
        if self is Verdict.INCONCLUSIVE and allowed is not Verdict.INCONCLUSIVE:
            return False
        return self.severity <= allowed.severity


_SEVERITY = {
    verdict: rank
    for rank, verdict in enumerate(
        (
            Verdict.IDENTICAL,
            Verdict.ROUNDING,
            Verdict.INCONCLUSIVE,
            Verdict.PRECISION,
            Verdict.NONDETERMINISTIC,
            Verdict.SEMANTIC,
            Verdict.UNSTABLE,
            Verdict.INCOMPARABLE,
        )
    )
}


# --------------------------------------------------------------------------- what corresponds


@dataclass(frozen=True, slots=True)
class Pair:
    """Two corresponding calls, by index. ``how``: the pass that paired them."""

    reference: int
    candidate: int
    how: str = "same path"


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which calls correspond; what was left over on either side is a result, not a warning.

    Invariants: pairs are strictly increasing in both indices; no index occurs twice; views are
    transparent (never paired, only counted); every other call is in a pair or in an unpaired tuple.
    ``ahead``: how many steps further on the reference is where the candidate begins (a resumed run).
    ``scripts``: the runs are scripts, which return what they came to (`whydiff.pair.scripts`).
    """

    pairs: tuple[Pair, ...]
    unpaired_reference: tuple[int, ...] = ()
    unpaired_candidate: tuple[int, ...] = ()
    views_reference: int = 0
    views_candidate: int = 0
    renamed: tuple[tuple[str, str], ...] = ()
    ahead: int = 0
    scripts: bool = False

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def rename(self, name: str) -> str:
        """The reference's name of what the candidate calls ``name``: a scope, a state tensor, a scalar."""
        for ours, theirs in self.renamed:
            if name == ours or (name.startswith(ours) and name[len(ours)] in "./["):
                return theirs + name[len(ours) :]
        return name

    def turned(self) -> Alignment:
        """The same alignment with the runs in each other's place."""
        return Alignment(
            pairs=tuple(Pair(pair.candidate, pair.reference, pair.how) for pair in self.pairs),
            unpaired_reference=self.unpaired_candidate,
            unpaired_candidate=self.unpaired_reference,
            views_reference=self.views_candidate,
            views_candidate=self.views_reference,
            renamed=tuple((theirs, ours) for ours, theirs in self.renamed),
            ahead=-self.ahead,
            scripts=self.scripts,
        )


# --------------------------------------------------------------------------- what differs


@dataclass(frozen=True, slots=True)
class Measurement:
    """A metric's number. ``per`` says what it is divided by (``"abs(reference)"``, ``"elements"``, ``""``)."""

    metric: str
    value: float
    per: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two values: agree (zero bits differ), differ, or could not be compared (and why).

    Attributes:
        status: what the bits say.
        reason: in words.
        measurements: every metric; none if the shapes differ or nothing was compared.
        other_shape: the two have other shapes, and no slice map between them.
        only: the side that alone has it; empty: both have it, or nobody knows.
    """

    status: Literal["agrees", "differs", "not_compared"]
    reason: str = ""
    measurements: tuple[Measurement, ...] = ()
    other_shape: bool = False
    only: Literal["", "reference", "candidate"] = ""

    def value(self, metric: str) -> float | None:
        """The number of one metric, or None if it was not measured."""
        return next((m.value for m in self.measurements if m.metric == metric), None)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measured statement; ``data`` holds the numbers behind it (JSON scalars)."""

    statement: str
    data: Mapping[str, Any] = field(default_factory=dict)


NOT_MADE_OF = "not_made_of_its_inputs"
"""In an evidence's data: the side on which an op's recorded inputs do not give its recorded output."""

OriginKind = Literal["implementation", "arguments", "state", "input", "layout", "region"]


@dataclass(frozen=True, slots=True)
class Origin:
    """A site whose inputs agree (or whose own state differs) and whose output differs.

    Attributes:
        site: in the reference's naming.
        candidate_site: its counterpart.
        kind: ``implementation`` (same inputs, other output), ``arguments`` (same op, other non-tensor
            arguments), ``state`` (it reads a parameter, buffer or attribute that differs), ``input`` (it
            reads a run input that differs), ``layout`` (same value, looked at differently), ``region``
            (the op or ops on one side have no one-to-one counterpart).
        verdict: of this origin alone.
        comparison: of its outputs, on agreeing inputs.
        calls: call index in the reference and in the candidate (-1: none).
        leaves: names of the differing leaves it reads.
        region: sites of unpaired calls between agreeing inputs and this origin, both sides.
        evidence: what supports kind and verdict.
        line: ``file:line`` of the user's own code at which it is made, if known: the candidate's, else the reference's.
    """

    site: Site
    candidate_site: Site
    kind: OriginKind
    verdict: Verdict
    comparison: Comparison
    calls: tuple[int, int] = (-1, -1)
    leaves: tuple[str, ...] = ()
    region: tuple[Site, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    line: str = ""

    @property
    def place(self) -> Site:
        """Where to look: the site, or the candidate's where only that side has a step, which the value's maker is not."""
        if not self.region:
            return self.site
        ours, theirs = self.site.at(""), self.candidate_site.at("")
        steps = {one.at("") for one in self.region}
        return self.candidate_site if ours not in steps and theirs in steps else self.site


# --------------------------------------------------------------------------- why


@dataclass(frozen=True, slots=True)
class Intervention:
    """A named change to a rerun; the adapter carries it out.

    ``restore-state``, ``restore-values`` (in the dtype that is held) target=leaf name; ``set-scalar`` target=attribute
    path, value; ``set-flag`` target=flag, value; ``set-mode`` target=module path, value=training bool;
    ``substitute`` target=str(site);
    ``draw-from`` target=number of a draw, value=number of the other side's whose state it begins from;
    ``set-argument`` target=str(site), value=(argument, value); ``replace-op`` target=str(site) …
    """

    name: str
    target: str
    value: Any = None

    def __str__(self) -> str:
        return f"{self.name} {self.target}" + ("" if self.value is None else f" = {self.value}")


@dataclass(frozen=True, slots=True)
class Experiment:
    """Interventions, what they should do to the difference, and what they did.

    Attributes:
        interventions: applied together to one rerun of the candidate, or of the reference if it is put in.
        prediction: in words, e.g. ``"outputs equal the reference's bit for bit"``.
        outcome: in words, with numbers.
        status: confirmed (as predicted), refuted or inconclusive.
        method: ``"rerun"`` (the user's program ran again) or ``"replay"`` (the recorded ops ran again).
        before: difference of the outputs before (mean absolute), after: with the interventions.
        direction: the candidate without the cause, or the reference with it.
        left: what is left of the difference, see `Left`.
        elements: how many numbers the compared outputs hold; 0: it was not counted.
        choices: they are ids: ``before`` and ``after`` are the shares that differ.
    """

    interventions: tuple[Intervention, ...]
    prediction: str
    outcome: str
    status: Status
    method: Literal["rerun", "replay"] = "replay"
    before: float | None = None
    after: float | None = None
    direction: Direction = "take_away"
    left: Left = ""
    elements: int = 0
    choices: bool = False


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to change, in one sentence, and code to paste.

    Attributes:
        text: one sentence.
        code: to paste; empty if there is none.
        undoes: where it changes exactly what the cause's experiments change, see `Undoes`.
        carried_out: exactly that was done, and nothing (but rounding) was then left of the outputs' difference.
        accepts: it changes nothing: the difference is to be lived with.
    """

    text: str
    code: str = ""
    undoes: Undoes = ""
    carried_out: bool = False
    accepts: bool = False

    @property
    def direction(self) -> Direction:
        """The experiment that carries it out: what is undone in the reference is the other direction."""
        return "put_in" if self.undoes == "reference" else "take_away"


@dataclass(frozen=True, slots=True)
class Cause:
    """A named explanation with its evidence and its proof.

    Attributes:
        code, name, site: which pattern, and where.
        verdict: what the difference is if this is why.
        evidence: measured statements.
        remedy: what to change.
        status: see `Status`.
        reason: why it is not confirmed; empty if it is.
        experiments: what was tried, in either direction.
        interventions: what takes it away from the candidate.
        put_in: what puts it into the reference; empty: not known, or the mirror of ``interventions`` is taken.
        effect: ``one_in``: the outputs' mean absolute difference while it acts alone; ``leave_one_out``: what is left
            when only it is taken away.
        inert: it differs and changes nothing on this input.
        says: what happened, in one plain sentence without a code: which side, what, from what to what.
        after: the site of what the program read out before, of which the argument that differs may be made: then it may
            only follow from another cause; empty: nothing says so.
    """

    code: str
    name: str
    site: str
    verdict: Verdict
    evidence: tuple[Evidence, ...] = ()
    remedy: Remedy | None = None
    status: Status = "inconclusive"
    reason: str = ""
    experiments: tuple[Experiment, ...] = ()
    interventions: tuple[Intervention, ...] = ()
    put_in: tuple[Intervention, ...] = ()
    effect: tuple[Measurement, ...] = ()
    inert: bool = False
    says: str = ""
    after: str = ""

    def __repr__(self) -> str:
        """One line: code, name, place and status; the fields have the rest."""
        at = f" at {self.site}" if self.site else ""
        return f"<Cause: {self.code} {self.name}{at} ({STANDING.get(self.status, self.status)})>"

    @property
    def size(self) -> float:
        """Its measured effect on the outputs, alone; 0 if it was not measured."""
        return next((m.value for m in self.effect if m.metric in ("one_in", "removed")), 0.0)


@dataclass(frozen=True, slots=True)
class Growth:
    """How the plain (not resynchronised) difference looks at one depth of the model."""

    site: Site
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Count:
    """How many of something were not looked at, and why (nothing vanishes).

    Attributes:
        what, reason: in words.
        count: how many.
        examples: a few of them.
        code: what the verdict asks for: ``no counterpart`` (values that depend on rows that only one run has),
            ``flip`` (discrete choices that fall otherwise when lifted), ``not lifted`` (ops that stayed as recorded),
            ``interrupted`` (what had not been done when the user stopped it), ``part`` (of outputs of which only a
            part was compared), ``not replayed`` (calls that could not be executed again), ``stages``
            (of a pipeline whose passes are not the reference's), ``nothing returned`` (by either side: what was written
            last is compared instead), ``python`` (what scripts make of their tensors), ``read out`` (numbers that one
            script alone gives Python, where all that both come to agrees).
    """

    what: str
    reason: str
    count: int
    examples: tuple[str, ...] = ()
    code: Literal[
        "",
        "no counterpart",
        "flip",
        "not lifted",
        "interrupted",
        "part",
        "not replayed",
        "stages",
        "nothing returned",
        "python",
        "read out",
    ] = ""
