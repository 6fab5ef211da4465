"""Padding in programs whose sizes depend on values: experts get as many tokens as are sent to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Diagnosis, Verdict

TOKENS, EXPERTS, SIZE = 6, 3, 8
_seeded = torch.Generator().manual_seed(58)
TABLE, GATE = torch.randn(40, SIZE, generator=_seeded), torch.randn(SIZE, EXPERTS, generator=_seeded)
MATRICES = torch.randn(EXPERTS, SIZE, SIZE, generator=_seeded) / 3
IDS = torch.randint(1, 40, (2, TOKENS), generator=_seeded)
MASK = torch.ones_like(IDS)
MASK[1, :2] = 0


class Program(torch.nn.Module):
    """Causal attention, and experts that are told how many tokens they get.

    Args:
        fills: what wholly masked rows see: everything ("all", a lowest number instead of minus infinity) or nothing.
        capacity: an expert takes at most as many tokens, in the order of the batch; 0: all.
        scale: of the scores.
    """

    def __init__(self, fills: str, capacity: int = 0, scale: float = 0.3) -> None:
        super().__init__()
        self.fills, self.capacity, self.scale = fills, capacity, scale

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B, T] and [B, T] → [B, T, size]."""
        x = TABLE[ids]
        allowed = mask[:, None, :].bool() & torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
        scores = (x @ x.mT * self.scale).masked_fill(~allowed, -3e38)
        weights = torch.softmax(scores, -1)
        if self.fills == "nothing":
            weights = weights * allowed.any(-1, keepdim=True)
        return self.routed((x + weights @ x).reshape(-1, SIZE)).reshape(x.shape)

    def routed(self, tokens: torch.Tensor) -> torch.Tensor:
        """[N, size] → [N, size]: every token by its expert."""
        chosen = (tokens @ GATE).argmax(-1)
        order = chosen.sort(stable=True).indices
        counts = torch.nn.functional.one_hot(chosen, EXPERTS).sum(0).tolist()
        parts = []
        for part, matrix in zip(tokens[order].split(counts), MATRICES, strict=True):
            taken = part @ matrix
            if self.capacity:
                taken = torch.cat([taken[: self.capacity], torch.zeros_like(taken[self.capacity :])])
            parts.append(taken)
        return tokens.index_add(0, order, torch.cat(parts))


def _left_out(found: Diagnosis) -> int:
    return sum(count.count for count in found.not_compared if count.what == "rows of outputs")


def _compared(reference: Any, candidate: Any, ids: torch.Tensor = IDS, mask: torch.Tensor = MASK) -> Diagnosis:
    with torch.no_grad():
        return whydiff.compare(reference, candidate, ids, mask)


def _apart(one: Program, other: Program) -> float:
    """The largest difference at places that are no padding, by plain calculation."""
    with torch.no_grad():
        return float((one(IDS, MASK) - other(IDS, MASK))[MASK.bool()].abs().max())


def _sent(program: Program) -> list[int]:
    """How many tokens every expert gets."""
    seen: list[int] = []

    def counted(tokens: torch.Tensor) -> torch.Tensor:
        seen.extend(torch.nn.functional.one_hot((tokens @ GATE).argmax(-1), EXPERTS).sum(0).tolist())
        return tokens

    program.routed = counted  # type: ignore[method-assign]
    program(IDS, MASK)
    return seen


def test_what_masked_rows_see_is_no_defect_although_it_decides_how_many_tokens_an_expert_gets() -> None:
    reference, candidate = Program("all"), Program("nothing")
    assert _apart(reference, candidate) < 1e-5
    assert _sent(Program("all")) != _sent(Program("nothing"))
    found = _compared(reference, candidate)
    assert found.verdict in (Verdict.ROUNDING, Verdict.INCOMPARABLE, Verdict.IDENTICAL), found.reason
    assert _left_out(found) == 2


def test_a_defect_beside_padding_is_found() -> None:
    reference, candidate = Program("all"), Program("nothing", scale=0.5)
    assert _apart(reference, candidate) > 1e-2
    assert _compared(reference, candidate).verdict is Verdict.SEMANTIC


@pytest.mark.parametrize("capacity", [1, 2])
def test_padding_that_takes_the_places_of_others_is_a_defect(capacity: int) -> None:
    reference, candidate = Program("all", capacity=capacity), Program("nothing", capacity=capacity)
    assert _apart(reference, candidate) > 1e-2
    assert _compared(reference, candidate).verdict is Verdict.SEMANTIC


@pytest.mark.parametrize("value", [0, 1])
def test_flags_of_single_rows_hide_nothing(value: int) -> None:
    class Flagged(Program):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = TABLE[ids] * (1.0 if self.fills == "all" else 1.0 + 0.5 * (mask == value)[..., None])
            return self.routed(x.reshape(-1, SIZE)).reshape(x.shape)

    found = _compared(Flagged("all"), Flagged("nothing"))
    assert _left_out(found) == 0
    assert found.verdict is Verdict.SEMANTIC
