"""The numbers that people who train on rollouts look at; r = candidate's probability / reference's, of each token.

k1, k2 and k3 estimate KL(reference || candidate) from tokens drawn from the reference: -log r, (log r)**2 / 2 and
(r - 1) - log r (John Schulman, "Approximating KL divergence", 2020, http://joschu.net/blog/kl-approx.html). k1 has no
bias and may be negative; k3 has none either, less variance, and is never negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whydiff.studies.logprobs.pairs import Array, Pairs

BINS = 8
COLUMNS = 41
"""Of the histogram; odd, so that 0 is in the middle of one."""


@dataclass(frozen=True, slots=True)
class Ratios:
    """Statistics of the log-ratio over some tokens.

    Attributes:
        tokens: how many have finite values on both sides.
        mean: of log r.
        mean_abs, max_abs: of its absolute value.
        k1, k2, k3: estimates of the KL divergence, in nats a token.
        clipped_low, clipped_high: share of the ratios below and above the bounds.
    """

    tokens: int
    mean: float
    mean_abs: float
    max_abs: float
    k1: float
    k2: float
    k3: float
    clipped_low: float
    clipped_high: float

    @property
    def clipped(self) -> float:
        """Share of the ratios outside of the bounds."""
        return self.clipped_low + self.clipped_high


@dataclass(frozen=True, slots=True)
class Bin:
    """The statistics of the tokens from ``low`` to ``high`` (of position, entropy or log-probability)."""

    low: float
    high: float
    ratios: Ratios


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of all paired tokens, as they are in the files.

    Attributes:
        bounds: of the ratio, for the shares that are clipped.
        all: over all tokens.
        perplexity: of the reference and of the candidate, exp of the mean negative log-probability.
        effective: effective sample size of token weights r over the number of tokens, sum(r)**2 / (n sum(r**2)).
        effective_sequences: the same of sequences, with the product of their ratios as weight.
        by_position: equally filled bins of the position.
        by_entropy: of the entropy; empty if the files do not hold it.
        by_probability: of the reference's log-probability.
        infinite: tokens to which one side alone gives probability 0.
        histogram: (low, high, tokens) of the log-ratio; what is beyond the ends counts in the first and the last.
    """

    bounds: tuple[float, float]
    all: Ratios
    perplexity: tuple[float, float]
    effective: float
    effective_sequences: float
    by_position: tuple[Bin, ...]
    by_entropy: tuple[Bin, ...]
    by_probability: tuple[Bin, ...]
    infinite: int
    histogram: tuple[tuple[float, float, int], ...] = ()

    @property
    def perplexity_gap(self) -> float:
        """Candidate's perplexity over the reference's, less one."""
        return self.perplexity[1] / self.perplexity[0] - 1


def statistics(pairs: Pairs, bounds: tuple[float, float]) -> Statistics:
    """The statistics of all pairs.

    Args:
        pairs: paired tokens.
        bounds: of the ratio, for example (0.8, 1.2) of PPO with epsilon 0.2.
    """
    finite = np.isfinite(pairs.reference) & np.isfinite(pairs.candidate)
    kept = pairs.only(finite)
    ratio = kept.log_ratio
    begins = np.flatnonzero(np.diff(kept.sequence, prepend=-1)) if len(kept) else np.zeros(0, np.int64)
    whole = np.add.reduceat(ratio, begins) if len(kept) else ratio
    return Statistics(
        bounds=bounds,
        all=_ratios(ratio, bounds),
        perplexity=(_perplexity(kept.reference), _perplexity(kept.candidate)),
        effective=_effective(ratio),
        effective_sequences=_effective(whole),
        by_position=_bins(kept.position.astype(np.float64), ratio, bounds),
        by_entropy=() if kept.entropy is None else _bins(kept.entropy, ratio, bounds),
        by_probability=_bins(kept.reference, ratio, bounds),
        infinite=int((np.isneginf(pairs.reference) != np.isneginf(pairs.candidate)).sum()),
        histogram=_histogram(ratio),
    )


def _histogram(ratio: Array) -> tuple[tuple[float, float, int], ...]:
    """Around 0, as far as all but a few in a thousand tokens reach."""
    end = float(np.quantile(np.abs(ratio), 0.995)) if ratio.size else 0.0
    if not end:
        return ()
    counts, edges = np.histogram(np.clip(ratio, -end, end), COLUMNS, (-end, end))
    return tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))


def _ratios(ratio: Array, bounds: tuple[float, float]) -> Ratios:
    if not ratio.size:
        nan = float("nan")
        return Ratios(
            tokens=0, mean=nan, mean_abs=nan, max_abs=nan, k1=nan, k2=nan, k3=nan, clipped_low=0.0, clipped_high=0.0
        )
    mean = float(ratio.mean())
    with np.errstate(over="ignore"):
        k3 = float((np.expm1(ratio) - ratio).mean())
        low, high = (float(np.mean(compared)) for compared in (np.exp(ratio) < bounds[0], np.exp(ratio) > bounds[1]))
    return Ratios(
        tokens=int(ratio.size),
        mean=mean,
        mean_abs=float(np.abs(ratio).mean()),
        max_abs=float(np.abs(ratio).max()),
        k1=-mean,
        k2=float((ratio * ratio).mean()) / 2,
        k3=k3,
        clipped_low=low,
        clipped_high=high,
    )


def _perplexity(values: Array) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(-values.mean())) if values.size else float("nan")


def _effective(ratio: Array) -> float:
    if not ratio.size:
        return float("nan")
    weights = np.exp(ratio - ratio.max())  # a common factor of the weights cancels
    return float(weights.sum() ** 2 / (ratio.size * (weights @ weights)))


def _bins(values: Array, ratio: Array, bounds: tuple[float, float]) -> tuple[Bin, ...]:
    """Statistics in bins that hold about as many tokens each."""
    keep = np.isfinite(values)
    values, ratio = values[keep], ratio[keep]
    if not values.size:
        return ()
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)))
    if len(edges) < 2:
        return (Bin(float(edges[0]), float(edges[0]), _ratios(ratio, bounds)),)
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    return tuple(
        Bin(float(edges[n]), float(edges[n + 1]), _ratios(ratio[which == n], bounds)) for n in range(len(edges) - 1)
    )
