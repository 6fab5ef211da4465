"""The only file that holds a threshold. Each says where it comes from and how often it is wrong.

"Measured" means: with small prototypes on one CPU and one GPU, on benign pairs (the same computation in
another order) and on planted defects; the numbers of trials are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from whydiff.errors import UsageError
from whydiff.numbers.formats import FORMATS


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A pair is within it if abs(candidate - reference) <= atol + rtol * abs(reference).

    Attributes:
        rtol: relative part.
        atol: absolute part.
        source: where the two numbers come from.
    """

    rtol: float
    atol: float
    source: str


UNIT_ROUNDOFF = {name: 2.0**-kind.precision for name, kind in FORMATS.items() if kind.specials != "e8m0"} | {
    "complex64": 2.0**-24,
    "complex128": 2.0**-53,
}
"""u = 2**-p for p significant bits (the hidden one included): the largest relative error of one rounding to
nearest. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 2.1; IEEE 754-2019, table
3.5; OFP8 rev. 1.0 for the 8-bit floats. It is a definition: no false alarms, barring subnormal numbers."""

TORCH_TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}
"""(rtol, atol) of ``torch.testing.assert_close``: ``_DTYPE_PRECISIONS`` in ``torch/testing/_comparison.py``
(as of 2.13). Every other dtype: (0, 0). A convention, not a bound: one op on inputs of size 1 is usually
within it; whole models are often not, without any defect. It never decides a verdict."""

TRAINING_JUMP = 64.0
"""Where two training runs lie this many times farther apart than at any step before, something else than the growth of
rounding is looked for: in one step of gradient descent a difference grows by at most 1 + lr * curvature. It decides
which steps are looked at, and no verdict."""

RANKS_SAME = 2.0**-40
"""Ranks make up a value in float64 if they differ by this part of it at most (2-norms); rounding leaves about 1e-15."""

RANKS_NOISE = 2.0**-20
"""The rest of a cancellation is noise in float64 too: it may differ by this part of float32's error (2**-29 is expected)."""

LOCAL_BOUND_DELTA = 1e-3
"""Family-wise probability that rounding alone breaks the local bound abs(e) <= u_out * R + u_acc * (lambda *
sqrt(n) + 2) * S for any of N outputs, lambda = `local_bound_lambda`. Higham and Mary, "A new approach to
probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019. False alarms measured: 0 of 900
benign products. Loose for large n: TF32 at n = 4096 is only 1.4 times over."""

PRECISION_CLASS_RATIO = 4.0
"""Two precision classes differ if T = rms(e / sqrt(sum a**2 b**2)) differs by more than this factor.
Measured: benign pairs stay within 0.70 to 1.75, so no false alarm was seen. Bits of T: float32 21-23, bf16x3
17.8, TF32 or float16 inputs 11.7, truncating TF32 10.3, bfloat16 inputs 8.7, e4m3 4.7: neighbours are at
least a factor 8 apart, except that truncating TF32 is not told from either neighbour (factors 2.6 and 3)."""

CORRECT_ROUNDING_Z = 5.0
"""abs(z) of the correct-rounding match counts, z = (b - c) / sqrt(b + c) (McNemar's test, Psychometrika 12,
1947), from which one side is less exact than the other. Normal approximation: 6e-7 of false alarms a pair;
measured: benign maximum 1.7 in 60 trials. One side alone proves nothing: attention kernels with a bfloat16
probability matrix match 0.6 of the time by design."""

SLOPE_ROUNDING = 0.75
"""From this slope on, slope = log(D32 / D64) / log(u32 / u64), a difference shrinks with the precision:
rounding. Measured: 1.00 for two benign pairs. log(u32 / u64) is 29 bits, so a limit 0.25 away from the ideal
slope forgives a factor 2**7.25 = 152 by which the sampled ratio D32 / D64 may be off. The false-alarm rate
was not measured."""

SLOPE_SEMANTIC = 0.25
"""Up to this slope a difference does not shrink with the precision: another function. Measured: 0.00 for four
planted defects. The same margin as `SLOPE_ROUNDING`; between the two the test is inconclusive."""

SCALING_FLOOR = 2.0**-40
"""A mean difference in float64 below this share of the reference's root mean square is rounding, whatever the
slope: 2**13 units of float64 roundoff, which a float32 run (2**-24) cannot tell from nothing. A convention: it
keeps a lucky float32 pair that agrees bit for bit from making the slope meaningless. A defect that changes the
outputs by less than 1e-12 is missed."""

CAST_ARTEFACT = 8.0
"""If, with casts kept, an origin's lifted difference is this many times its recorded one, the casts are an
artefact of lifting (one side's cast happens inside a kernel, where lifting removes it) and do not count. Two
roundings of one value at different places differ by 0.2 to 0.4 units on average; the same cast made inside a
kernel leaves rare flips, 1 in 30 elements or fewer. A convention; its error rate was not measured."""

HYPOTHESIS_MARGIN = 10.0
"""A replayed hypothesis names the cause only if its error is this many times below the runner-up's (and at
rounding level itself). It named the planted defects of the prototypes; its false-alarm rate was not
measured."""

FLOOR_RUNS = 8
"""Runs with stochastically re-rounded op outputs that estimate the global rounding floor."""

FLOOR_T = 4.785
"""Student's t, one-sided 1e-3, 7 degrees of freedom, in the prediction limit exp(mean + t * s * sqrt(1 +
1/m)) over m = `FLOOR_RUNS` logarithms of the floor's differences (Hahn and Meeker, *Statistical Intervals*,
section 4.8). False alarms: 1 in 1000 if the floor is log-normal. For materiality only: in bfloat16 the floor
hides real defects (every one of five planted)."""

LADDER_SHARE = 0.5
"""The part of a compiler that makes at least this share of the whole difference is named: below it lies what other parts
round besides. A convention; of several parts that make less than half each, none is named."""

LADDER_SECONDS = 90.0
"""No further way of compiling a program is tried after this time. A convention: about 20 ways of a small program."""

PARTS_SECONDS = 15.0
"""Where a difference is known to be rounding, no further part of a rung is left out after this time: the rung is named, and
of rounding many parts make a little each. A convention: two to ten parts of a small program, one or two of a model."""

SAMPLE = 4096
"""Outputs that the float64 oracle computes for a local test, of any larger tensor (O(SAMPLE * K) work). A
defect that touches a share p of the outputs is missed with probability (1 - p)**4096: 2 % at p = 1e-3."""

SHUFFLED_MATCHES = 0.5
"""A replayed order proves something only if trees with shuffled leaves give the kernel's bits in at most this
share of the trials on cancelling data. Measured on one CPU, 15 ops, float32 and bfloat16, sums of 64 to 1024
terms: shuffled trees match 0 to 0.28, the revealed one 1. With 32 trials, a wrong tree that matches half of
them at random would pass all of them once in 2**32 cases."""


def unit_roundoff(dtype: str) -> float:
    """`UNIT_ROUNDOFF` of a floating-point dtype.

    Raises:
        UsageError: a dtype without rounding (integers) or an unknown one.
    """
    if dtype not in UNIT_ROUNDOFF:
        raise UsageError("This dtype has no unit roundoff.", actual=dtype, expected=", ".join(UNIT_ROUNDOFF))
    return UNIT_ROUNDOFF[dtype]


def default_tolerance(reference: str, candidate: str | None = None) -> Tolerance:
    """What ``torch.testing.assert_close`` allows between two dtypes: the looser of the two rows.

    Args:
        reference: dtype name.
        candidate: dtype name; the reference's if omitted.
    """
    rows = [TORCH_TOLERANCES.get(dtype, (0.0, 0.0)) for dtype in (reference, candidate or reference)]
    names = dict.fromkeys((reference, candidate or reference))
    return Tolerance(
        rtol=max(row[0] for row in rows),
        atol=max(row[1] for row in rows),
        source=f"torch.testing.assert_close, {' and '.join(names)}",
    )


def local_bound_lambda(outputs: int, delta: float = LOCAL_BOUND_DELTA) -> float:
    """The local bound's factor sqrt(2 ln(2 N / delta)), for N outputs judged together (Higham and Mary).

    Args:
        outputs: how many outputs are judged, at least 1.
        delta: family-wise false-alarm probability.
    """
    return math.sqrt(2 * math.log(2 * outputs / delta))


HIDDEN_CAST_SHARE = 0.125
"""Least share of elements that a cast must have changed before two tensors of one dtype are called a rounding
that was cast back. A single planted change in a tensor of representable numbers (all ones) also equals a
rounding of the other side, in one direction; a table that was really rounded changes most elements (rotary
tables: all but one; positions 0 to 511 as bfloat16: a quarter). Its false-alarm rate was not measured."""

HIDDEN_CAST_CHANCE = 1e-3
"""Rounding errors of k changed elements are spread evenly over half a quantum, so all of them are at most t
half quanta with probability t**k. Below this probability the small change (1 ulp in the wide dtype is 2**-15
half quanta of bfloat16) is not called a cast. False alarms: a true cast is missed once in 1000 if k = 1."""

LOAD_AGAIN_BYTES = 4 << 30
"""A model with more state than this is not loaded a second time to see what loading leaves unwritten (ST004)."""

GARBAGE_EXPONENT = 64
"""A magnitude outside 2**-64 … 2**64 is wild in a table of a model. Pointers and counters that are read as
float32 are below 2**-100 (upper halves of addresses) or anywhere (lower halves). A convention: weak evidence
only, together with `GARBAGE_JUMP`; its false-alarm rate was not measured."""

GARBAGE_JUMP = 32
"""Wild elements count only if they are at least 2**32 away from both nonzero neighbours: a decaying table
(0.9**n) gets wild step by step, reinterpreted memory at once."""

LOCAL_STEPS = {
    "product": 2,
    "convolution": 2,
    "sum": 2,
    "norm": 8,
    "spread": 8,
    "softmax": 8,
    "attention": 8,
    "elementwise": 8,
    "region": 8,
}
"""Roundings of one op besides its accumulation, in the local bound: 2 for products (Higham and Mary); 8 for
ops with exp, erf, tanh or square roots, whose vector kernels are within 1 to 4 ulp (SLEEF: 1.0; CUDA math
functions: up to 2; oneDNN's polynomials: 4). False alarms: see `LOCAL_BOUND_DELTA`."""

LOCAL_STEPS_NARROW = 2
"""The same where intermediate values are stored in 16 bits by design: flash attention rounds probabilities,
the scalar tail of rsqrt the square root, a softmax the shifted input. False alarms measured:
`docs/explanation/local-tests.md`."""

ROUNDING_LEVEL = 4.0
"""A side errs at rounding level if rms(e / scale) is at most this many times that of a plain sequential
accumulation, sqrt(u_acc**2 (n / 6 * scale**2 + n / 9 * R**2) + u_inner**2 steps / 3 * S**2 + u_out**2 / 3 *
R**2): partial sums of j random terms have the variance (j / n) scale**2 + (j / n)**2 R**2, and each
rounding adds u**2 / 3 of it (Higham, section 4.2, with uniform rounding errors). Kernels that sum in blocks
are below it. False alarms measured: `docs/explanation/local-tests.md`."""

SAME_FUNCTION = 4.0
"""Two ops compute the same function if their float64 results differ by at most this many float32 (float64
ops: float64) roundoffs of the scale, as rms: constants such as eps and 1 / sqrt(d) reach a program rounded
to float32. A definition of what a float32 program can tell apart: no false alarms."""

HYPOTHESIS_MISMATCH = 0.05
"""Share of 16-bit outputs that may differ from a hypothesis' correctly rounded ones if it is the cause.
Measured on benign 16-bit products, norms and elementwise ops: `docs/explanation/local-tests.md`."""

WIDEST_CLASS = 2.0**-4.5
"""Largest T that inputs of 8 bits (e4m3: 2**-4.7) explain. A side that errs more has computed something
else."""

ARTIFACT_TOLERANCES = {"float32": (1e-5, 1e-6), "bfloat16": (1e-2, 1e-3), "": (1e-3, 1e-4)}
"""(rtol, atol) for stored index and checkpoint files, "" for every other float dtype: the rules of a published
comparison of ColBERT's index artifacts between two PyTorch versions (third seed case of this project). A
convention, not a bound: float16 embeddings of two versions that differ by rounding alone were outside it
(20 % of elements unequal, largest difference 1.2e-3), so outside does not mean defective."""


def artifact_tolerance(dtype: str, table: Mapping[str, tuple[float, float]] | None = None) -> Tolerance:
    """What is allowed between two stored floats of a dtype; integers and bool are compared exactly.

    Args:
        dtype: name; complex dtypes use their parts'.
        table: dtype → (rtol, atol), "" for the rest; entries replace those of `ARTIFACT_TOLERANCES`.
    """
    known = {**ARTIFACT_TOLERANCES, **(table or {})}
    part = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    rtol, atol = known.get(part, known[""])
    given = table is not None and (part in table or (part not in ARTIFACT_TOLERANCES and "" in table))
    return Tolerance(rtol, atol, "as asked for" if given else f"stored artifacts, {part}")


ARTIFACT_PEAK = 16.0
"""A tensor's absolute tolerance is at most rtol times this many times its root mean square, which no normal number exceeds: an
absolute tolerance made for numbers of size 1 passes Adam's second moments of 1e-8 that were lost. Tensors of root mean square
1/160 or more keep the absolute tolerance of the table (its rtol is ten times its atol)."""

ARTIFACT_WRITTEN = 5
"""Significant decimal digits up to which a lone number was written by hand: 0.999 and 0.9995 are two settings, although they
are within one part in a thousand. A measured number has more."""

ARTIFACT_MOVED = 0.1
"""Relative L2 error below which the numbers of one shape did not change places (of unrelated ones it is 1.4). A choice."""

ARTIFACT_UNITS = 4.0
"""Units of roundoff within which two numbers that were rounded once each are one computation's."""

ARTIFACT_QUANTISED = 8
"""Numbers from which a scale that fits them all is no chance: one alone always has a scale."""

ASSIGNMENT_SHARE = 0.9
"""Least share of sampled rows whose stored code is their nearest codebook row (in float64) before codebook and
embeddings are believed to be what made the codes. Codes of unrelated arrays agree with probability about 1/K.
A stored embedding that was rounded after it was assigned moves a few near ties only. The false-alarm rate was
not measured."""

ASSIGNMENT_SAMPLE = 512
"""Rows sampled for `ASSIGNMENT_SHARE`, evenly spaced."""

LATE_SCALING_HEADROOM = 2.0
"""Bits: a product that is scaled down only after it was stored is reported if it has less headroom than this,
i.e. if inputs twice as large on both sides would overflow it. A choice, not a measurement; the headroom itself is
always tabulated."""

UNDERFLOW_SHARE = 0.5
"""Share of non-zero elements that a cast or scaling may turn into zero before it is reported. A choice: gradients
of which most vanish do not train; sparse activations lose few."""

WHOLE_ROW = 0.5
"""Share of a row's elements that must differ before the row counts as another one (another token's vector), not as a
row in which single numbers differ. Two rows of a table of floats differ almost everywhere. A choice; its error rate
was not measured."""

CANCELLED_SHARE = 0.5
"""Share of a format's digits that E[x²] − E[x]², or any formula at an origin, may lose before it is reported as
unstable: with half of them gone the relative error is above the square root of the unit roundoff (Chan, Golub,
LeVeque, "Algorithms for computing the sample variance", The American Statistician 37(3), 1983)."""

CANCELLED_SAMPLE = 8
"""Fewest results from which `cancelled` tells one formula's errors from another's: of two equally exact ones, each with
8 normal errors, one has an rms above 4 times the other's (`PRECISION_CLASS_RATIO`) once in 2000 (F test); with a single
number that happens once in 6."""


LOCATED_FIRST = 2.0
"""A place that is only located is told before a proven cause if it moves the outputs more than this many times as much: a
region around the cause moves them about as much as the cause itself. A choice."""

LOGPROB_LOGITS = 32.0
"""Size that the logits of a language model are taken to reach. One rounding of such a logit to
bfloat16 is at most 2**-8 * 32 = 0.125. A convention: a model with larger logits has larger benign noise."""

LOGPROB_NOISE = {
    "float32": UNIT_ROUNDOFF["float32"] * LOGPROB_LOGITS * 64,
    "bfloat16": UNIT_ROUNDOFF["bfloat16"] * LOGPROB_LOGITS,
    "float8": UNIT_ROUNDOFF["float8_e4m3fn"] * LOGPROB_LOGITS / 4,
}
"""Robust standard deviation of a token's log-odds that rounding explains. bfloat16: one rounding of the largest logits.
float32: 64 times that, since kernels that add in another order do so in every layer. float8: both factors of a product are
rounded, with relative errors of 2**-4 / sqrt(3) each, 0.05 together, of logits whose root mean square is a quarter of the
largest one: 0.41. False alarms: 0 of 12 benign pairs in `tests/studies/logprobs`. What is smaller than this and has no
pattern is not told from rounding."""

LOGPROB_EXPLAINED = 4.0
"""A relation (temperature, shift, factor) explains a difference if what it leaves is this many times smaller; the same
factor tells one worker from another (see `PRECISION_CLASS_RATIO`). False alarms: 0 in 61 generated pairs."""

LOGPROB_Z = 5.0
"""Standard errors by which a fitted number must differ from what it is without a mistake (6e-7 of normal ones do)."""

LOGPROB_TOKENS = 32
"""Fewest tokens that a test looks at: the logarithm of a median absolute value of n normal numbers has the variance 1.36 / n,
so that with 32 it is within 40 % of its expectation 95 % of the time."""

LOGPROB_SURE = 1e-4
"""A log-probability nearer to 0 keeps few digits when it is computed as logit - logsumexp in float32: logits of size 32 have
steps of 4e-6."""

LOGPROB_LOWEST = -30.0
"""Log-probabilities below this are not fitted: float32 sums do not hold shares of 1e-13."""

LOGPROB_FURTHEST = 10.0
"""Log-odds are cut at this size before they are correlated: a few certain tokens do not decide. A choice."""

LOGPROB_COMMON = 0.98
"""Share of the tokens that a fit is judged by; the furthest 2 % are left out, as outliers may be among them. A choice."""

LOGPROB_HOTTEST = 20.0
"""Temperatures between 1 / 20 and 20 are considered. A choice."""

LOGPROB_BASE = 0.01
"""Relative distance within which a factor is that of a known base; those of base 2 and base 10 are a factor 3.3 apart."""

LOGPROB_LEADING = 0.9
"""Share of the sequences that must begin with a run of one side's zeros before they are a prompt without scores. A choice."""

LOGPROB_CERTAIN = 1e-6
"""A log-probability nearer to 0 is that of a distribution with one token."""

LOGPROB_CONSTANT = 1e-3
"""Relative spread up to which numbers are one constant. A choice."""

LOGPROB_NUCLEUS = 0.01
"""Share of tokens with probability 1 on one side only from which a cut may be a nucleus: top-k leaves none but for k = 1."""

LOGPROB_NUCLEUS_WITHIN = 0.05
"""Two estimates of a nucleus' bound (the smallest probability that became 1, the least that was kept) agree. A choice."""

LOGPROB_ONE_SIDED = 0.1
"""Largest share of squares that may go the other way where a distribution was cut (of noise: one half). A choice."""

LOGPROB_KEPT = 0.2
"""A sampling filter keeps at least this much probability at 99 % of the tokens; less is another distribution. A choice."""

LOGPROB_GROWTH = 2.0
"""From this factor between the first and the last third of the steps a difference grows. A choice."""

LOGPROB_MONOTONE = 0.8
"""Spearman's correlation from which something grows with the steps: of 8 values in random order one in 100 has it, of 5 one in
15; the factor `LOGPROB_GROWTH` and its standard error are asked for as well. Also the share of the padded sequences that
must be off."""

LOGPROB_OUTLIER = 10.0
"""Robust deviations beyond which a token is an outlier (4 in 10,000 of Student's t with 4 degrees of freedom are)."""

LOGPROB_OUTLIERS = 0.05
"""Largest share of tokens that are a few. A choice."""

LOGPROB_VOCABULARY = 18 * math.log(2)
"""Largest entropy in nats of a distribution over tokens: vocabularies have at most 2**18 entries."""

EPSILONS = 1e-2
"""A plain number below it is called an epsilon in a sentence, one above it a factor. It decides a word, no verdict."""
