"""The mutants of `tests.mutants`: one line each, and the tests that ought to notice it."""

from __future__ import annotations

from dataclasses import dataclass

TESTS = {
    "report": ("tests/report",),
    "pair/align": ("tests/pair/align",),
    "numbers/comparison": ("tests/numbers/test_comparison.py",),
    "locate/mixing": ("tests/locate/test_mixing.py",),
    "judge/impact": ("tests/judge/test_impact.py",),
    "judge/anchor": ("tests/judge/test_inside.py", "tests/judge/test_anchor.py"),
    "judge/verdict": ("tests/judge/test_measured.py", "tests/judge/test_verdict.py"),
    "judge/verify": ("tests/judge/test_verify.py", "tests/judge/test_proof.py"),
    "explain/scaling": ("tests/explain/test_scale.py", "tests/explain/test_scaling.py"),
    "explain/causes": ("tests/explain/causes/test_order.py",),
    "locate/origins": ("tests/locate/test_origins.py",),
    "locate/padding": ("tests/locate/test_padding.py",),
    "pair/operands": ("tests/pair/test_operands.py", "tests/pair/test_lockstep.py"),
    "pair/lockstep": ("tests/pair/test_lockstep.py", "tests/pair/test_replay.py"),
    "pipeline": ("tests/test_ranking.py", "tests/test_pipeline.py"),
    "judge/ranking": ("tests/test_ranking.py",),
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
    Mutant("report", "report/answer.py", 'if c.status != "refuted" and not c.inert]', "if not c.inert]"),
    Mutant("report", "report/answer.py", "        if not side.complete:\n", "        if side.complete:\n"),
    Mutant("report", "report/_origins.py", "strange[0] if strange else max", "max"),
    Mutant("report", "report/_growth.py", "(own or values)[-1]", "values[0]"),
    Mutant("report", "report/view.py", 'differ = sum(c.status == "differs" for _, c in rest)', "differ = len(rest)"),
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
    Mutant(
        "judge/impact",
        "judge/impact.py",
        "scores.tokens[part.start + 1 : part.stop + 1]",
        "scores.tokens[part.start : part.stop]",
    ),
    Mutant(
        "judge/impact", "judge/impact.py", "for value, slot in [worst(numbers)]", "for value, slot in [min(numbers)]"
    ),
    Mutant(
        "judge/anchor",
        "judge/outputs.py",
        "return self.agree and not self.having(",
        "return self.agree or not self.having(",
    ),
    Mutant("judge/anchor", "judge/outputs.py", "return bool(self.compared) and all(", "return all("),
    Mutant("judge/anchor", "judge/anchor.py", "agree=not differing and not local.origins,", "agree=not differing,"),
    Mutant("judge/anchor", "judge/anchor.py", "    ended_early,\n", ""),
    Mutant("judge/anchor", "judge/outputs.py", 'alone is not None and alone.kind == "left_out"', "alone is not None"),
    Mutant("judge/verdict", "judge/each_origin.py", "return Verdict.ROUNDING if artefact else", "return"),
    Mutant("judge/verdict", "judge/each_origin.py", "and (same_op or verdict is Verdict.INCONCLUSIVE)", ""),
    Mutant(
        "judge/verdict", "judge/each_origin.py", "if explaining and verdict is not Verdict.UNSTABLE:", "if explaining:"
    ),
    Mutant("judge/verdict", "judge/verdict.py", "worst = max(origins,", "worst = min(origins,"),
    Mutant("judge/verdict", "judge/verdict.py", "if apart and len(apart) == len(proven):", "if apart:"),
    Mutant("judge/verdict", "judge/verdict.py", "local.propagated <= no_counterpart", "local.propagated"),
    Mutant("judge/verdict", "judge/each_origin.py", "and index in scaling.together and agrees", "and agrees"),
    Mutant(
        "judge/verify",
        "judge/verify.py",
        "if before is None or after is None or not after <= _level(one.own(direction)) < before:",
        "if after is None or not after <= _level(one.own(direction)):",
    ),
    Mutant("judge/verify", "judge/verify.py", "if item not in own)", ")"),
    Mutant("judge/verify", "judge/verify.py", "any(item.name in TRANSPLANTS for item in one.away)", "False"),
    Mutant(
        "judge/verify", "judge/verify.py", 'broken = "" if away.whole else _other_function(case, one)', 'broken = ""'
    ),
    Mutant("judge/verify", "judge/proof.py", "(self.every.equal and not self.others.equal)", "self.every.equal"),
    Mutant("judge/verify", "judge/proof.py", " and not self.mine & self.left", ""),
    Mutant("explain/scaling", "explain/scale.py", "slope <= SLOPE_SEMANTIC else", "slope <= SLOPE_ROUNDING else"),
    Mutant(
        "explain/scaling",
        "explain/scale.py",
        "self.double.mean <= SCALING_FLOOR * self.double.magnitude",
        "self.double.mean <= SCALING_FLOOR",
    ),
    Mutant("explain/scaling", "numbers/metrics/_one_pass.py", "- 2 * self.nan_both", "- self.nan_both"),
    Mutant("explain/scaling", "explain/scaling.py", "if substituted.issuperset(at):", "if False:"),
    Mutant("explain/scaling", "explain/scaling.py", "elif all_given_back(self.case):", "elif False:"),
    Mutant(
        "locate/origins", "locate/origins.py", "            if own is not None and not own[0]:", "            if False:"
    ),
    Mutant(
        "locate/origins",
        "locate/origins.py",
        "            if not self.step.resynchronise(look, call_c):",
        "            if True:",
    ),
    Mutant(
        "locate/origins", "locate/origins.py", "agrees if self.accounted is None else self.accounted and agrees", "True"
    ),
    Mutant("locate/origins", "locate/origins.py", 'kind = "input" if kinds <= {"input"} else "state"', "pass"),
    Mutant(
        "locate/origins",
        "locate/upstream.py",
        'if c.role != "constant" and self.step.leaf_differs(r, c)',
        'if c.role != "constant"',
    ),
    Mutant("locate/padding", "locate/padding.py", "            if all(hidden):", "            if any(hidden):"),
    Mutant("locate/padding", "locate/padding.py", "for shown in (True, False):", "for shown in (False,):"),
    Mutant("locate/padding", "locate/padding.py", "if finite:\n", "if chosen:\n"),
    Mutant("pair/lockstep", "pair/lockstep.py", "+ other - 2 * len(", "+ other - len("),
    Mutant("pair/operands", "pair/operands.py", "not (event.overwritten or event.is_look)", "not event.overwritten"),
    Mutant("pair/operands", "pair/operands.py", "event.fingerprint not in marks", "False"),
    Mutant("pair/operands", "pair/operands.py", "if min(len(lone), len(could)) < more", "if False"),
    Mutant("pair/operands", "pair/operands.py", "sum(number is None for", "sum(number is not None for"),
    Mutant(
        "pair/lockstep", "pair/lockstep.py", "return reference.fingerprint != candidate.fingerprint", "return False"
    ),
    Mutant("pair/lockstep", "pair/lockstep.py", "at_r, at_c = pair.reference + 1,", "at_r, at_c = pair.reference,"),
    Mutant("explain/causes", "explain/causes/_rule.py", "other.general < rule.general or ", ""),
    Mutant("explain/causes", "explain/causes/_rule.py", " or named[0] & {*other.precedes}", ""),
    Mutant("judge/ranking", "judge/ranked.py", "0, -size, status", "0, size, status"),
    Mutant("judge/ranking", "judge/ranked.py", "return (cause.inert, 0,", "return (0,"),
    Mutant("pipeline", "pipeline.py", "if returned.equal and local.origins", "if local.origins"),
    Mutant("explain/causes", "explain/causes/_telling.py", "or cause.code != rule.code:", ":"),
    Mutant(
        "pipeline",
        "pipeline.py",
        "for side in (side for side in sides if not isinstance(side, DiskTrace)):",
        "for side in ():",
    ),
)
