"""Compare the log-probabilities that two programs gave the same tokens."""

from __future__ import annotations

from collections.abc import Mapping

from whydiff.capturing.adapters import Progress, silent
from whydiff.errors import UsageError
from whydiff.records import Verdict
from whydiff.studies.logprobs.files import Side, read
from whydiff.studies.logprobs.pairing import pair
from whydiff.studies.logprobs.passes import examine
from whydiff.studies.logprobs.report import LogprobComparison
from whydiff.studies.logprobs.results import Noise, Result
from whydiff.studies.logprobs.statistics import statistics
from whydiff.takes import BOUNDS, COLUMNS, TEXT_TO_TEXT, takes

CLIP = (0.8, 1.2)
"""PPO's bounds of the ratio with epsilon 0.2 (Schulman et al., arXiv 1707.06347)."""
_LEVELS = {
    "none": Verdict.IDENTICAL,
    "float32": Verdict.ROUNDING,
    "bfloat16": Verdict.ROUNDING,
    "float8": Verdict.PRECISION,
}


@takes(engine=COLUMNS, trainer=COLUMNS, fields=TEXT_TO_TEXT, trainer_fields=TEXT_TO_TEXT, clip=BOUNDS)
def compare_logprobs(
    engine: Side,
    trainer: Side,
    *,
    fields: Mapping[str, str] | None = None,
    trainer_fields: Mapping[str, str] | None = None,
    clip: tuple[float, float] = CLIP,
    progress: Progress | None = None,
) -> LogprobComparison:
    """Compare the log-probabilities that an inference engine and a trainer gave the same tokens.

    Args:
        engine: the reference: a ``.jsonl``, ``.parquet`` (extra ``tables``) or ``.npz`` file, or its columns (name →
            values). A row is one sequence, with lists, or one token.
        trainer: the candidate, likewise.
        fields: role → name of its column, roles as in `whydiff.studies.logprobs.fields.KNOWN`; others are guessed.
        trainer_fields: the same for the trainer's file; as ``fields`` if omitted.
        clip: bounds of the ratio trainer / engine, for the share of the tokens that are clipped.
        progress: called with (stage, done, total).

    Raises:
        UsageError: a file or a field is not there, or no token is common.
        TraceFormatError: a file is damaged.
    """
    if not 0 <= clip[0] <= clip[1]:
        raise UsageError("These are no bounds.", actual=str(clip), expected="0 <= low <= high")
    tell = progress or silent
    tell("read", 0, 2)
    reference = read(engine, fields, "engine")
    tell("read", 1, 2)
    candidate = read(trainer, fields if trainer_fields is None else trainer_fields, "trainer")
    tell("compare", 0, 0)
    paired = pair(reference, candidate)
    results = (*paired.results, *examine(paired.pairs))
    return LogprobComparison(
        reference=reference.source,
        candidate=candidate.source,
        verdict=_judged(results, paired.lone > 0),
        results=results,
        statistics=statistics(paired.pairs, clip),
        sequences=len(set(paired.pairs.sequence.tolist())),
        paired_by=paired.by,
        fields_read=(reference.fields, candidate.fields),
        not_paired=paired.not_paired,
    )


def _judged(results: tuple[Result, ...], lone: bool) -> Verdict:
    """The most severe verdict of what was found; else what the noise amounts to."""
    found = [one.verdict for one in results if one.found]
    if found:
        return max(found, key=lambda verdict: verdict.severity)
    level = next((one.level for one in results if isinstance(one, Noise) and one.tested), "")
    verdict = _LEVELS.get(level, Verdict.INCONCLUSIVE)
    return Verdict.INCONCLUSIVE if lone and verdict is Verdict.IDENTICAL else verdict
