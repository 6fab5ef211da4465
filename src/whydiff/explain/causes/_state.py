"""State that differs, classified once per case: which cause explains which tensor, and by what evidence.

Every differing tensor is offered to the causes in their order, from the most specific explanation to the least, and the
first whose ``explain_state`` answers gets it (its answer is the proof), so that two never explain the same tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from whydiff.errors import PayloadError, guarded
from whydiff.explain.case import Case
from whydiff.explain.causes._rule import StateView
from whydiff.explain.causes._telling import asked, who
from whydiff.explain.read_alike import read_alike
from whydiff.locate.upstream import casts_only
from whydiff.numbers.comparison import compare_payloads
from whydiff.records import Call, Comparison, Intervention, Leaf

_EACH_ALONE = 8
"""Up to this many tensors of one kind are separate causes, each with its own experiment; more are one."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Difference:
    """One state tensor (with every name it has) that differs.

    Attributes:
        names: in the reference's naming; several if both sides tie them.
        targets: the same in the candidate's naming.
        reference, candidate: leaves of the first name.
        read: an operator of the candidate reads it (by any of its names).
        cause: code of the cause that explains it.
        proof: what that cause said of it.
        comparison: of the values; None if a payload is missing.
    """

    names: tuple[str, ...]
    targets: tuple[str, ...]
    reference: Leaf
    candidate: Leaf
    read: bool
    cause: str = ""
    proof: Any = None
    comparison: Comparison | None = None

    @property
    def name(self) -> str:
        """The first name."""
        return self.names[0]

    @property
    def reshaped(self) -> bool:
        """Whether the two sides' shapes differ."""
        return self.reference.spec.shape != self.candidate.spec.shape

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """Give the candidate the reference's tensor."""
        value = None if self.targets[0] == self.names[0] else self.names[0]
        return (Intervention("restore-state", self.targets[0], value),)

    @property
    def data(self) -> dict[str, Any]:
        """Numbers for evidence: JSON scalars."""
        found: dict[str, Any] = {
            "name": self.name,
            "role": self.reference.role,
            "shape": list(self.reference.spec.shape),
            "reference_dtype": self.reference.spec.dtype,
            "candidate_dtype": self.candidate.spec.dtype,
            "elements": self.reference.spec.numel,
            "read": self.read,
        }
        if len(self.names) > 1:
            found["also"] = list(self.names[1:])
        if self.comparison is not None:
            found |= {m.metric: m.value for m in self.comparison.measurements}
            found["differing_elements"] = round((self.comparison.value("different") or 0.0) * found["elements"])
        return found


def differences(case: Case, cause: str = "") -> tuple[Difference, ...]:
    """Differing state of both sides, in the reference's order; of one cause if a code is given."""
    found = case.shared("state", lambda: tuple(_classified(case)))
    return tuple(d for d in found if not cause or d.cause == cause)


def bundles(found: Sequence[Difference]) -> list[tuple[Difference, ...]]:
    """Tensors that become one cause: each alone while they are few, else all read ones, all others.

    Tensors of other shapes are one: a weight, its bias and the layer after it fit together, and none fits alone.
    """
    reshaped = tuple(d for d in found if d.reshaped)
    rest = [d for d in found if not d.reshaped]
    parts = [d for d in rest if d.read], [d for d in rest if not d.read]
    return [*([reshaped] if reshaped else []), *(bundle for part in parts for bundle in alone_while_few(part))]


def alone_while_few(found: Sequence[T]) -> list[tuple[T, ...]]:
    """Each for itself while they are few, else all in one."""
    return [tuple(found)] if len(found) > _EACH_ALONE else [(one,) for one in found]


def converts_other_state(case: Case, side: int, calls: Sequence[Call]) -> bool:
    """Whether ops of one side (0: the reference) only convert a state tensor that holds other values than the counterpart."""
    trace = case.traces[side]
    other = {(d.reference, d.candidate)[side].storage for d in differences(case)}
    return all(
        casts_only(trace, call) and call.reads[0].producer == -1 and call.reads[0].storage in other for call in calls
    )


def site_of(bundle: Sequence[Difference]) -> str:
    """A tensor's name, or the first one's and how many more."""
    return bundle[0].name if len(bundle) == 1 else f"{bundle[0].name} and {len(bundle) - 1} more"


def interventions_of(bundle: Sequence[Difference]) -> tuple[Intervention, ...]:
    """Restore every tensor of the bundle."""
    return tuple(dict.fromkeys(i for difference in bundle for i in difference.interventions))


def touched(case: Case) -> tuple[frozenset[int], frozenset[int]]:
    """Storages that some operator (or the result) reads, per side."""
    return case.shared("touched", lambda: (_read_storages(case.reference), _read_storages(case.candidate)))


def _read_storages(trace: Any) -> frozenset[int]:
    return frozenset(
        event.storage for call in trace.calls if call.kind != "view" for event in call.reads if event.storage >= 0
    )


def _classified(case: Case) -> Iterable[Difference]:
    lone_ties = _lone_ties(case)
    for names, reference, candidate in _joined(case):
        targets = tuple(target_name(case, name) for name in names)
        if len(names) == 1 and case.rename(candidate.name) != names[0]:
            targets = (candidate.name,)
        read = candidate.storage in touched(case)[1] or reference.storage in touched(case)[0]
        payloads = None
        with suppress(PayloadError):  # then there is no comparison, which says so
            payloads = case.payload(reference, "reference"), case.payload(candidate, "candidate")
        cause, proof = _claimed(
            StateView(
                case=case,
                names=names,
                reference=reference,
                candidate=candidate,
                payloads=payloads,
                tied=next(((side, group) for side, group in lone_ties if set(group) & set(names)), None),
            )
        )
        yield Difference(
            names=names,
            targets=targets,
            reference=reference,
            candidate=candidate,
            read=read,
            cause=cause,
            proof=proof,
            comparison=compare_payloads(*payloads) if payloads is not None else None,
        )


def _claimed(view: StateView) -> tuple[str, Any]:
    """(code, proof) of the first cause that explains a tensor; empty if none does."""
    for rule in asked():
        proof = None
        with guarded(who(rule)):
            proof = rule.explain_state(view)
        if proof is not None:
            return rule.code, proof
    return "", None


def _joined(case: Case) -> Iterable[tuple[tuple[str, ...], Leaf, Leaf]]:
    """Differing state; names that both sides show of the same elements are one entry."""
    joined: dict[Any, list[tuple[str, Leaf, Leaf]]] = {}
    for reference, candidate in case.differing_leaves:
        if not reference.is_state or not candidate.is_state:
            continue
        key = (*_elements(reference), *_elements(candidate))
        joined.setdefault(key, []).append((reference.name, reference, candidate))
    for reference, candidate in read_alike(case):
        joined.setdefault((reference.name, candidate.name), []).append((reference.name, reference, candidate))
    for entries in joined.values():
        yield tuple(name for name, _, _ in entries), entries[0][1], entries[0][2]


def _elements(leaf: Leaf) -> tuple[Any, ...]:
    if leaf.storage < 0:
        return (leaf.name,)
    return (leaf.storage, leaf.spec.offset, leaf.spec.shape, leaf.spec.strides)


def _lone_ties(case: Case) -> list[tuple[str, tuple[str, ...]]]:
    """Groups that only one side ties: (the side, names in the reference's naming)."""
    ours = [set(group) for group in case.reference.ties]
    theirs = [{case.rename(name) for name in group} for group in case.candidate.ties]
    both = {name for name, (r, c) in case.leaves.items() if r is not None and c is not None}
    found = []
    for side, mine, others in (("reference", ours, theirs), ("candidate", theirs, ours)):
        for group in mine:
            shared = group & both
            if len(shared) > 1 and not any(shared <= other for other in others):
                found.append((side, tuple(sorted(shared))))
    return found


def target_name(case: Case, name: str) -> str:
    """The candidate's own name of a state tensor or scalar that the reference calls ``name``."""
    names = case.shared(
        "names",
        lambda: {
            case.rename(own): own for own in (*case.candidate.scalars, *(leaf.name for leaf in case.candidate.leaves))
        },
    )
    return names.get(name, name)
