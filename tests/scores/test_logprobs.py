"""A real engine (transformers' continuous batching) against a trainer in bfloat16: one planted mistake of each kind, and none.

``python -m tests.scores.logprobs`` runs all sixty, pairs of two mistakes among them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.scores.logprobs import Case, cases, judged

pytestmark = pytest.mark.usefixtures("put_away")

SEED = 7000
"""One for all: what the engine generates is then generated once."""
KINDS = {
    case.finds: replace(case, noise="batch", seed=SEED, name=case.name.replace(" on bf16", " on batch"))
    for case in cases()
    if len(case.finds) == 1
} | {(case.noise,): replace(case, seed=SEED) for case in cases() if not case.finds}
"""``batch``: both sides in bfloat16; of the benign ones ``bf16`` is an engine in bfloat16 against a trainer in float32."""


@pytest.mark.parametrize("case", KINDS.values(), ids=lambda case: case.name.replace(" ", "_"))
def test_what_was_planted_is_found_and_nothing_else(case: Case) -> None:
    assert not judged(case)
