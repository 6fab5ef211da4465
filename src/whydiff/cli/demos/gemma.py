"""A Gemma in JAX gives one prompt other logits in a batch than alone: is it random, and does it matter?

The model is penzai's (``penzai.models.transformer``) with random weights, in three precisions: everything in
bfloat16, bfloat16 parameters with float32 activations (what ``upcast_activations_to_float32`` does), everything
in float32. Which of them depends on the batch, depends on the backend: so all are run, and the one that
differs most is diagnosed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from whydiff.cli._progress import Progress, silent
from whydiff.errors import MissingPackageError

if TYPE_CHECKING:
    import jax

    from whydiff.records import Diagnosis

TOKENS, BATCH = 12, 8
RUNGS = (("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "float32"))
"""(parameters, activations)."""


@dataclass(frozen=True)
class Size:
    """How large the model is; the default runs in about a minute on two cores."""

    layers: int = 4
    width: int = 512
    hidden: int = 2048
    heads: int = 8
    vocabulary: int = 4096


@dataclass(frozen=True)
class Rung:
    """What the ladder measures of one pair of dtypes; the prompt alone is the reference.

    Attributes:
        parameters, activations: dtypes.
        repeats: two runs of each program agree bit for bit.
        different: share of the prompt's logits that differ in the batch.
        max_abs: largest absolute difference.
        flips: tokens whose most probable successor differs.
        one_by_one: in a program that computes the batch row by row, the prompt's logits equal those alone.
    """

    parameters: str
    activations: str
    repeats: bool
    different: float
    max_abs: float
    flips: int
    one_by_one: bool


def model(parameters: str, activations: str, size: Size | None = None) -> Any:
    """A Gemma of penzai with random weights (the same values, rounded to ``parameters``).

    Raises:
        UsageError: penzai is not installed.
    """
    size = size or Size()
    try:
        import jax
        from penzai import pz
        from penzai.models.transformer.variants import llamalike_common
    except ModuleNotFoundError as error:
        raise MissingPackageError.of(error, "This demo", "demo") from error
    config = llamalike_common.LlamalikeTransformerConfig(
        num_kv_heads=1,
        query_head_multiplier=size.heads,
        embedding_dim=size.width,
        projection_dim=size.width // size.heads,
        mlp_hidden_dim=size.hidden,
        num_decoder_blocks=size.layers,
        vocab_size=size.vocabulary,
        mlp_variant="geglu_approx",
        rope_wavelength=10_000,
        tie_embedder_and_logits=True,
        parameter_dtype=jax.numpy.dtype(parameters),
        activation_dtype=jax.numpy.dtype(activations),
    )
    gemma = llamalike_common.build_llamalike_transformer(config, init_base_rng=jax.random.key(0), name="transformer")
    return pz.freeze_params(gemma)


def program(gemma: Any, compiled: bool = True) -> Callable[[jax.Array], jax.Array]:
    """The model: token ids int32 [batch, tokens] → logits [batch, tokens, vocabulary].

    The weights are an argument of the compiled function: as constants they would be copied into every program.

    Args:
        gemma: from `model`.
        compiled: one program; else JAX carries out operation by operation, as in a notebook without ``jax.jit``.
    """
    import jax
    from penzai import pz

    def logits(gemma: Any, ids: jax.Array) -> jax.Array:
        positions = pz.nx.wrap(jax.numpy.arange(ids.shape[1]), "seq")
        out = gemma(pz.nx.wrap(ids, "batch", "seq"), token_positions=positions)
        return out.unwrap("batch", "seq", "vocabulary")

    function: Callable[[Any, jax.Array], jax.Array] = jax.jit(logits) if compiled else logits
    return functools.partial(function, gemma)


def prompts(size: Size | None = None) -> jax.Array:
    """Token ids, int32 [8, 12]; the first row is the prompt."""
    import jax

    size = size or Size()
    return jax.random.randint(jax.random.key(1), (BATCH, TOKENS), 0, size.vocabulary)


def build(
    parameters: str = "float32",
    activations: str = "float32",
    size: Size | None = None,
    compiled: bool = True,
    tokens: int = TOKENS,
) -> tuple[Callable[[], Any], Callable[[], Any], jax.Array]:
    """(the prompt alone, the prompt as row 0 of a batch, all prompts): two programs without arguments."""
    logits, ids = program(model(parameters, activations, size), compiled), prompts(size)[:, :tokens]
    prompt = ids[:1]
    return lambda: logits(prompt), lambda: logits(ids), ids


def climb(
    parameters: str, activations: str, size: Size | None = None, compiled: bool = True, tokens: int = TOKENS
) -> Rung:
    """Measure one rung of the ladder, on the backend at hand, with the first tokens of the prompts."""
    import jax
    import numpy as np

    gemma, ids = model(parameters, activations, size), prompts(size)[:, :tokens]
    logits = program(gemma, compiled)

    def bits(array: jax.Array) -> np.ndarray[Any, Any]:
        host = np.asarray(array)
        return host.view(f"u{host.dtype.itemsize}")

    alone, batched = logits(ids[:1])[0], logits(ids)[0]
    again = logits(ids[:1])[0], logits(ids)[0]
    repeats = all((bits(a) == bits(b)).all() for a, b in zip((alone, batched), again, strict=True))
    wrapped = jax.jit if compiled else lambda function: function
    rows = wrapped(lambda own, given: [program(own, compiled)(given[row : row + 1]) for row in range(BATCH)])(
        gemma, ids
    )
    distance = np.abs(np.asarray(alone, np.float64) - np.asarray(batched, np.float64))
    flips = np.asarray(alone).argmax(-1) != np.asarray(batched).argmax(-1)
    return Rung(
        parameters=parameters,
        activations=activations,
        repeats=bool(repeats),
        different=float((bits(alone) != bits(batched)).mean()),
        max_abs=float(distance.max()),
        flips=int(flips.sum()),
        one_by_one=bool((bits(rows[0][0]) == bits(alone)).all()),
    )


def run(progress: Progress = silent, size: Size | None = None) -> Diagnosis:
    """The ladder, and the diagnosis of the rung that depends most on the batch."""
    from whydiff.pipeline import Options, compare

    ladder = []
    for number, (parameters, activations) in enumerate(RUNGS):
        progress(f"run Gemma with {parameters} parameters and {activations} activations", number, len(RUNGS))
        ladder.append(climb(parameters, activations, size))
    worst = max(ladder, key=lambda rung: rung.different)
    alone, batched, _ = build(worst.parameters, worst.activations, size)
    diagnosis = compare(alone, batched, options=Options(progress=progress))
    return replace(
        diagnosis,
        notes=(*notes(ladder, worst), *diagnosis.notes),
        causes=tuple(_with_experiment(cause, worst) for cause in diagnosis.causes),
    )


def notes(ladder: list[Rung], worst: Rung) -> tuple[str, ...]:
    """The ladder in sentences, the diagnosed rung first."""
    import jax

    backend = jax.devices()[0].device_kind
    lines = [
        f"{rung.parameters} parameters, {rung.activations} activations: "
        + (
            f"{rung.different:.2%} of the prompt's logits differ in a batch of {BATCH} (max {rung.max_abs:.1e}, "
            f"{rung.flips} of {TOKENS} top tokens flip)"
            if rung.different
            else f"bit-equal in a batch of {BATCH}"
        )
        + ("; every rerun gives the same bits" if rung.repeats else "; reruns differ")
        + (", and so does a program that computes the batch row by row" if rung.one_by_one else "")
        for rung in ladder
    ]
    return (
        f"the ladder of precisions on {backend}; diagnosed is {worst.parameters} with "
        f"{worst.activations} activations, where the batch changes most",
        *lines,
    )


def _with_experiment(cause: Any, rung: Rung) -> Any:
    """The experiment and the remedy that change no kernel: the same batch, row by row in one program."""
    from whydiff.records import Experiment, Intervention, Remedy

    if cause.code != "SH001":
        return cause
    experiment = Experiment(
        interventions=(Intervention("row-by-row", "the whole program", BATCH),),
        prediction="row 0 of the batch equals the prompt alone bit for bit",
        outcome="zero bits differ" if rung.one_by_one else "the logits still differ",
        status="confirmed" if rung.one_by_one else "refuted",
        method="rerun",
    )
    remedy = cause.remedy
    if rung.one_by_one:
        remedy = Remedy(
            "Accept it: it is rounding. Or compute the rows one by one in one program, which costs the batch's speed; "
            "or carry out the named ops in pieces of a fixed number of rows.",
            "rows = jax.jit(lambda ids: jnp.concatenate([logits(ids[i : i + 1]) for i in range(len(ids))]))",
        )
    return replace(cause, experiments=(*cause.experiments, experiment), remedy=remedy)
