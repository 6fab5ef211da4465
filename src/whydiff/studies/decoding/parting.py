"""Where greedy decoding parts: two models continue one text until they choose different tokens.

Until then both have read the same tokens, so one sequence serves both. It runs each model once a token, and is
therefore no part of `whydiff.compare`, which only sees one forward pass (`whydiff.judge.impact`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Progress
from whydiff.errors import UsageError

NextScores = Callable[[list[int]], Any]
"""From the tokens so far to the scores of the next one: anything that numpy reads as a vector of floats, e.g.
``lambda tokens: model(torch.tensor([tokens])).logits[0, -1].float().numpy()``."""


@dataclass(frozen=True, slots=True)
class Parting:
    """What greedy decoding of both models gave.

    Attributes:
        agreed: tokens that both chose, in order.
        reference, candidate: the first different choices; None if the models did not part.
        leads: how far each side's choice was ahead of the other side's, in its own scores (both at least 0).
    """

    agreed: tuple[int, ...]
    reference: int | None = None
    candidate: int | None = None
    leads: tuple[float, float] = (0.0, 0.0)

    @property
    def at(self) -> int | None:
        """Number of tokens generated before the first different one; None if the models did not part."""
        return None if self.reference is None else len(self.agreed)


def greedy_parting(
    reference: NextScores,
    candidate: NextScores,
    tokens: Sequence[int],
    *,
    steps: int = 64,
    stop: Sequence[int] = (),
    progress: Progress | None = None,
) -> Parting:
    """Decode greedily with both models until they part.

    Args:
        reference: scores of the next token, see `NextScores`.
        candidate: likewise.
        tokens: the prompt, at least one token.
        steps: tokens to generate at most.
        stop: tokens that end the text.
        progress: called with (stage, done, total).

    Raises:
        UsageError: the prompt is empty, or the two give scores of different lengths.
    """
    if not tokens:
        raise UsageError("Greedy decoding needs a prompt.", expected="at least one token")
    agreed: list[int] = []
    for step in range(steps):
        if progress is not None:
            progress("decode greedily", step, steps)
        so_far = [*tokens, *agreed]
        ours, theirs = (np.asarray(side(so_far), dtype=np.float64).reshape(-1) for side in (reference, candidate))
        if ours.shape != theirs.shape:
            raise UsageError(
                "The two sides score different numbers of tokens.", actual=str(theirs.size), expected=str(ours.size)
            )
        mine, other = int(ours.argmax()), int(theirs.argmax())
        if mine != other:
            leads = float(ours[mine] - ours[other]), float(theirs[other] - theirs[mine])
            return Parting(tuple(agreed), mine, other, leads)
        agreed.append(mine)
        if mine in stop:
            break
    return Parting(tuple(agreed))
