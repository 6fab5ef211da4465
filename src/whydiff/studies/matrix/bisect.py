"""Which single difference between two environments changes the numbers: experiments, no lists.

Method: QuickXplain (Junker, AAAI 2004) over the differences (the interpreter, each variable). A set of
differences is carried over to the reference's environment, the program runs there, and its bits are
compared with the reference's. Halving finds one responsible difference among n in about log2(n) runs; two
more runs prove it: alone it must give the candidate's bits, and without it the candidate must give the
reference's. While the proof is incomplete, the search goes on among the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from whydiff.studies.matrix.records import Responsible, Setting

INTERPRETER = "interpreter"

Signature = str
Try = Callable[[Setting], "Signature | None"]


def differences(reference: Setting, candidate: Setting) -> tuple[str, ...]:
    """Names of what differs: ``interpreter`` and variables, sorted."""
    ours, theirs = dict(reference.variables), dict(candidate.variables)
    missing = object()
    names = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n, missing) != theirs.get(n, missing))
    return (*((INTERPRETER,) if reference.python != candidate.python else ()), *names)


def mixed(reference: Setting, candidate: Setting, taken: Sequence[str]) -> Setting:
    """The reference's environment with some differences taken from the candidate's."""
    variables = dict(reference.variables)
    theirs = dict(candidate.variables)
    for name in taken:
        if name == INTERPRETER:
            continue
        variables.pop(name, None)
        if name in theirs:
            variables[name] = theirs[name]
    python = candidate.python if INTERPRETER in taken else reference.python
    return Setting(python, tuple(sorted(variables.items())))


@dataclass
class Bisection:
    """One search between two environments whose bits differ.

    Attributes:
        reference, candidate: the two environments.
        run: gives the program's signature (equal signatures: equal bits) in an environment; None: it failed.
        unknown: environments that could not be run, as texts.
    """

    reference: Setting
    candidate: Setting
    run: Try
    unknown: list[str] = field(default_factory=list)
    _known: dict[frozenset[str], Signature | None] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        """How many mixed environments were tried (the two ends not counted)."""
        return sum(1 for taken in self._known if taken and taken != frozenset(self.names))

    @property
    def names(self) -> tuple[str, ...]:
        """The differences."""
        return differences(self.reference, self.candidate)

    def signature(self, taken: frozenset[str]) -> Signature | None:
        """Bits of the reference's environment with some differences carried over (remembered)."""
        if taken not in self._known:
            setting = mixed(self.reference, self.candidate, sorted(taken))
            self._known[taken] = self.run(setting)
            if self._known[taken] is None:
                self.unknown.append(setting.variables_text)
        return self._known[taken]

    def find(self) -> tuple[str, ...]:
        """A set of differences that together give the candidate's bits, each of which changes something.

        An environment that fails counts as one that changes nothing, so that the search goes on; `unknown`
        names it.
        """
        every = frozenset(self.names)
        target, found = self.signature(every), frozenset[str]()
        order: list[str] = []
        while self.signature(found) != target and every - found:
            rest = sorted(every - found)
            if not self._changes(found, frozenset(rest)):
                break
            one = self._one(found, rest)
            order.append(one)
            found = found | {one}
        return tuple(order)

    def judge(self, name: str, changes: tuple[tuple[str, str, str], ...]) -> Responsible:
        """The two experiments of one difference: alone, and everything but it."""
        every = frozenset(self.names)
        nothing, target = self.signature(frozenset()), self.signature(every)
        alone, without = self.signature(frozenset({name})), self.signature(every - {name})
        return Responsible(
            _told(self.reference, self.candidate, name),
            changes,
            "reproduces" if alone == target else "agrees" if alone == nothing else "differs",
            "" if without is None else "agrees" if without == nothing else "differs",
            name,
        )

    def proven(self, found: Sequence[str]) -> bool:
        """Whether these carried over together give the candidate's bits, and left out together the reference's."""
        every, these = frozenset(self.names), frozenset(found)
        target, nothing = self.signature(every), self.signature(frozenset())
        return None not in (target, nothing) and (self.signature(these), self.signature(every - these)) == (
            target,
            nothing,
        )

    def _changes(self, base: frozenset[str], taken: frozenset[str]) -> bool:
        now = self.signature(base | taken)
        return now is not None and now != self.signature(base)

    def _one(self, base: frozenset[str], rest: Sequence[str]) -> str:
        """One difference that matters: halve what changes the bits; context grows by what was set aside."""
        context: frozenset[str] = frozenset()
        while len(rest) > 1:
            half = len(rest) // 2
            left, right = rest[:half], rest[half:]
            if self._changes(base | context, frozenset(left)):
                rest = left
            elif self._changes(base | context, frozenset(right)):
                rest = right
            else:  # only together: keep one half in force and search the other
                context, rest = context | frozenset(left), right
                if not self._changes(base | context, frozenset(right)):
                    return right[0]
        return rest[0]


def _told(reference: Setting, candidate: Setting, name: str) -> str:
    if name == INTERPRETER:
        return f"{name} {reference.python} → {candidate.python}"
    sides = []
    for setting in (reference, candidate):
        chosen = dict(setting.variables)
        sides.append("as it is" if name not in chosen else "(taken away)" if chosen[name] is None else chosen[name])
    return f"{name} {sides[0]} → {sides[1]}"
