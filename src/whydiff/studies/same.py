"""`whydiff.assert_same`: a comparison as an assertion, for tests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whydiff.capturing.adapters import for_target
from whydiff.errors import UsageError, meant
from whydiff.pipeline import Options, compare
from whydiff.records import Diagnosis, Verdict
from whydiff.report.answer import answer
from whydiff.studies.golden import OPEN, decided, is_golden
from whydiff.studies.watch import current
from whydiff.takes import refuse_misspelt

if TYPE_CHECKING:
    from whydiff.studies.sweep.report import Sweep


class Differs(AssertionError):
    """Two runs differ by more than was allowed.

    Attributes:
        diagnosis: where and why; of rows that depend on their batch, what `whydiff.sweep` found.
        allow: the worst verdict that would have passed.
    """

    def __init__(self, diagnosis: Diagnosis | Sweep, allow: Verdict) -> None:
        self.diagnosis, self.allow = diagnosis, allow
        limit = "allowed is no difference" if allow is Verdict.IDENTICAL else f"allowed is no more than {allow}"
        said = answer(diagnosis).text() if isinstance(diagnosis, Diagnosis) else diagnosis.text()
        super().__init__(f"{said}{limit}")


Differs.__module__ = "whydiff"  # as users meet it, also in the short summary of a test run


def assert_same(
    reference: Any, candidate: Any, *args: Any, allow: Verdict | str | None = None, **kwargs: Any
) -> Diagnosis:
    """Raise if two runs differ by more than is allowed; the message names verdict, place, cause and fix.

    Args:
        reference: the trusted program (a module or callable), or the path of a trace.
        candidate: the program under suspicion, likewise.
        args, kwargs: inputs, given to every live side.
        allow: the worst verdict that passes; ``"rounding"`` if omitted, or what the test's marker ``whydiff_allow``
            says. ``"inconclusive"`` passes only where it is named.

    Returns:
        The diagnosis that passed.

    Raises:
        Differs: an `AssertionError` with the ``diagnosis``.
        whydiff.errors.UsageError: no such verdict, or a side is neither a callable nor a trace.
        whydiff.errors.TargetError: a program raised.
    """
    __tracebackhide__ = True
    return asserted(reference, candidate, args, kwargs, allow, Options())


def asserted(
    reference: Any,
    candidate: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    allow: Verdict | str | None,
    options: Options,
) -> Diagnosis:
    """`assert_same` with the options of a comparison."""
    __tracebackhide__ = True
    watch = current()
    allowed = verdict(allow if allow is not None else watch.allow or Verdict.ROUNDING)
    refuse_misspelt("allow", (reference, candidate), kwargs)
    diagnosis = compare(reference, candidate, *args, options=options, **kwargs)
    if isinstance(reference, (str, os.PathLike)) and callable(candidate):
        diagnosis = _by_tolerance(diagnosis, reference, candidate, args, kwargs)
    if not diagnosis.verdict.within(allowed):
        watch.failed = diagnosis
        raise Differs(diagnosis, allowed)
    watch.seen.append(diagnosis)
    return diagnosis


def verdict(word: Verdict | str) -> Verdict:
    """The verdict that ``allow`` names.

    Raises:
        UsageError: there is none of this name.
    """
    if word not in [*Verdict]:
        near = meant(str(word), Verdict)
        raise UsageError(
            "There is no such verdict.",
            where="allow",
            actual=repr(word),
            expected=", ".join(Verdict),
            next_step=f"did you mean {near}" if near else "",
        )
    return Verdict(word)


def _by_tolerance(
    diagnosis: Diagnosis, golden: str | os.PathLike[str], target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Diagnosis:
    if diagnosis.verdict not in OPEN or not is_golden(golden):
        return diagnosis
    return decided(diagnosis, golden, for_target(target, args).run(target, args, kwargs).anchor())
