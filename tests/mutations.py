"""The mutants of `tests.mutants`: one line each, and the tests that ought to notice it."""

from __future__ import annotations

from dataclasses import dataclass

TESTS = {
    "report": ("tests/report",),
    "pair/align": ("tests/pair/align",),
    "numbers/comparison": ("tests/numbers/test_comparison.py",),
    "locate/mixing": ("tests/locate/test_mixing.py",),
    "judge/impact": ("tests/judge/test_impact.py",),
}
"""Room → its tests."""


@dataclass(frozen=True)
class Mutant:
    """One change: ``old``, which stands in ``file`` (below ``src/whydiff``) exactly once, becomes ``new``."""

    room: str
    file: str
    old: str
    new: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.room}: {self.file}: {self.old.strip()!r} → {self.new.strip()!r}"


MUTANTS = (
    Mutant("report", "report/words.py", "if 0 < fraction < 0.0005:", "if fraction < 0:"),
    Mutant(
        "report",
        "report/words.py",
        "bool(check.deterministic and check.unchanged)",
        "bool(check.deterministic or check.unchanged)",
    ),
    Mutant("report", "report/_answer.py", 'if c.status != "refuted" and not c.inert)', "if not c.inert)"),
    Mutant("report", "report/_answer.py", "        if not side.complete\n", "        if side.complete\n"),
    Mutant("report", "report/_origins.py", "strange[0] if strange else max", "max"),
    Mutant("report", "report/_growth.py", "(own or values)[-1]", "values[0]"),
    Mutant("report", "report/_view.py", 'differ = sum(c.status == "differs" for _, c in rest)', "differ = len(rest)"),
    Mutant("report", "report/json.py", '"Infinity" if value > 0 else "-Infinity"', '"Infinity"'),
    Mutant("report", "report/markdown.py", "max(3, longest + 1)", "3"),
    Mutant("pair/align", "pair/align/passes.py", "if len(again) >= len(pairs):", "if len(again) > len(pairs):"),
    Mutant("pair/align", "pair/align/side.py", ' if call.kind != "view")', ")"),
    Mutant("pair/align", "pair/align/sequence.py", "n == 1 == count[1][token] and token is not None", "n == 1"),
    Mutant("pair/align", "pair/align/sequence.py", "if j > j0 and i > i0:", "if j > j0:"),
    Mutant("pair/align", "pair/align/ends.py", "len(returns) != 1 or ", ""),
    Mutant("numbers/comparison", "numbers/comparison.py", 'if covers == {"content"}:', "if covers:"),
    Mutant("numbers/comparison", "numbers/comparison.py", "!= ()", ""),
    Mutant("locate/mixing", "locate/mixing.py", "UNIT_ROUNDOFF[dtype] ** CANCELLED_SHARE", "1.0"),
    Mutant(
        "locate/mixing", "locate/mixing.py", "return False  # it cannot be told", "return True  # it cannot be told"
    ),
    Mutant("judge/impact", "judge/impact.py", "(flipped % scores.length).min()", "flipped.min()"),
    Mutant("judge/impact", "judge/impact.py", "* (logs[0] - logs[1])", "* (logs[1] - logs[0])"),
    Mutant("judge/impact", "judge/impact.py", "x.max() < shape[-1]", "x.max() < shape[-1] * 9"),
    Mutant("judge/impact", "judge/impact.py", "scores.tokens[rows + 1]", "scores.tokens[rows]"),
    Mutant("judge/impact", "judge/impact.py", "value, slot = max(numbers)", "value, slot = min(numbers)"),
)
