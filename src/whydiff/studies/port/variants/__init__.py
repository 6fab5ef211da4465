"""What ports get wrong, one file per kind of step: each proposes rewritings of a region as hypotheses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis
from whydiff.studies.port.variants import (
    activations,
    attention,
    choices,
    constants,
    gates,
    grids,
    heads,
    integers,
    joins,
    leaves,
    norms,
    pools,
    terms,
    windows,
)

VARIANTS: tuple[Callable[[Bench, int], Iterator[Hypothesis]], ...] = (
    integers.propose,
    constants.propose,
    windows.propose,
    leaves.propose,
    gates.propose,
    attention.propose,
    heads.propose,
    norms.propose,
    grids.propose,
    pools.propose,
    activations.propose,
    choices.propose,
    terms.propose,
    joins.propose,
)


def propose(bench: Bench, number: int) -> list[Hypothesis]:
    """Every hypothesis about what lies between a point and those before it, the plainest first."""
    return [hypothesis for variant in VARIANTS for hypothesis in variant(bench, number)]
