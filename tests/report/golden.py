"""Diagnoses that every reporter must be able to show, with a value in every field of every record."""

from __future__ import annotations

import math
from dataclasses import replace

from whydiff.records import (
    Alignment,
    Cause,
    Comparison,
    Count,
    Diagnosis,
    Environment,
    Evidence,
    Experiment,
    Growth,
    Intervention,
    Measurement,
    ObserverCheck,
    Origin,
    Pair,
    Remedy,
    Side,
    Site,
    Verdict,
)

PROVEN = ObserverCheck(deterministic=True, unchanged=True, outputs=1)
ENVIRONMENT = Environment(
    versions={"torch": "2.13.0"}, hardware={"cpu": "AVX512"}, flags={"threads": 2}, rng={"cpu": "9f2c"}
)
REFERENCE = Side("live", "torch", "op", 2239, ENVIRONMENT, PROVEN)
CANDIDATE = replace(REFERENCE, source="candidate.trace")


def differs(mean: float, maximum: float, different: int, elements: int, rel_l2: float) -> Comparison:
    return Comparison(
        "differs",
        f"{different} of {elements} elements differ",
        (
            Measurement("max_abs", maximum),
            Measurement("mean_abs", mean, "elements"),
            Measurement("rel_l2", rel_l2, "abs(reference)"),
            Measurement("different", different / elements, "elements"),
            Measurement("nan_mismatch", 0.0, "elements"),
        ),
    )


IDENTICAL = Diagnosis(
    verdict=Verdict.IDENTICAL,
    reason="",
    origins=(),
    causes=(),
    impact=(),
    outputs=(("output.logits", Comparison("agrees")),),
    growth=(),
    alignment=Alignment(tuple(Pair(i, i) for i in range(2135)), views_reference=104, views_candidate=104),
    sides=(REFERENCE, REFERENCE),
)

_ROTARY = Site("model.rotary_emb", "cos", slot="output")
_MEANS = [1.8e-3, 5.0e-3, 8.3e-3, *[1.1e-2 + 1.0e-3 * i for i in range(22)], 6.7e-2, 7.7e-2, 9.2e-2, 0.1, 0.148]

PRECISION = Diagnosis(
    verdict=Verdict.PRECISION,
    reason="The same formula is carried out with a table that was cast to bf16.",
    origins=(
        Origin(
            site=_ROTARY,
            candidate_site=_ROTARY,
            kind="state",
            verdict=Verdict.PRECISION,
            comparison=differs(1.2e-4, 3.9e-3, 48, 192, 2.1e-4),
            calls=(31, 31),
            leaves=("model.rotary_emb.inv_freq",),
            evidence=(Evidence("It reads inv_freq float32[32], which differs in 21 of 32 elements."),),
        ),
    ),
    causes=(
        Cause(
            code="PR001",
            name="state-cast-to-lower-precision",
            site="model.rotary_emb.inv_freq",
            verdict=Verdict.PRECISION,
            evidence=(
                Evidence(
                    "Casting the reference's inv_freq to bf16 gives the candidate's, bit for bit.",
                    {"equal": 32, "elements": 32},
                ),
            ),
            remedy=Remedy(
                "Load the weights in bf16 instead of casting the whole model afterwards.",
                'model = AutoModelForCausalLM.from_pretrained(path, dtype="bfloat16")',
            ),
            status="confirmed",
            reason="The outputs became equal.",
            experiments=(
                Experiment(
                    interventions=(Intervention("restore-state", "model.rotary_emb.inv_freq"),),
                    prediction="The outputs equal the reference's bit for bit.",
                    outcome="0 of 147456 elements differ",
                    status="confirmed",
                    method="rerun",
                    before=0.0762,
                    after=0.0,
                ),
            ),
            interventions=(Intervention("restore-state", "model.rotary_emb.inv_freq"),),
            effect=(Measurement("mean_abs", 0.0762),),
        ),
        Cause(
            code="ST004",
            name="attention-backend-changed",
            site="model.config._attn_implementation",
            verdict=Verdict.ROUNDING,
            evidence=(Evidence("The two configurations name different backends.", {"reference": "sdpa"}),),
            status="refuted",
            reason="Setting it back changed no bit.",
            experiments=(
                Experiment(
                    interventions=(Intervention("set-scalar", "config._attn_implementation", "sdpa"),),
                    prediction="The difference falls to rounding.",
                    outcome="96480 of 147456 elements still differ",
                    status="refuted",
                    before=0.0762,
                    after=0.0762,
                ),
            ),
        ),
        Cause(
            code="PR002",
            name="state-of-lower-precision-unread",
            site="model.rotary_emb.original_inv_freq",
            verdict=Verdict.PRECISION,
            evidence=(Evidence("It was cast too, and no call reads it."),),
            inert=True,
        ),
    ),
    impact=(
        Measurement("max_abs", 6.0),
        Measurement("mean_abs", 0.0762),
        Measurement("top1_flips", 1 / 3, "positions"),
        Measurement("kl", 1.3e-3),
    ),
    outputs=(("output.logits", differs(0.0762, 6.0, 96480, 147456, 1.9e-2)),),
    growth=tuple(
        Growth(
            Site(f"model.layers.{n}", "LlamaDecoderLayer", slot="output.0"),
            differs(mean, 0.0625 if n == 0 else 0.25, 1150 + n, 1728, mean / 8),
        )
        for n, mean in enumerate(_MEANS)
    ),
    alignment=Alignment(
        tuple(Pair(i, i, "same path" if i < 2200 else "equal value") for i in range(2239)),
        views_reference=812,
        views_candidate=812,
        renamed=(("model.embed", "model.embed_tokens"),),
    ),
    sides=(REFERENCE, CANDIDATE),
    environment_changes=(("flags.torch.float32_matmul_precision", "highest", "high"),),
    not_compared=(Count("output", "the values are indices", 2, ("cache.positions", "cache.length")),),
    accounted=True,
    notes=("The candidate's trace was captured on another machine.",),
)


def _kernel(n: int) -> Origin:
    site = Site(f"model.layers.{n}.mlp.up_proj", "mm", slot="output")
    return Origin(
        site, site, "implementation", Verdict.ROUNDING, differs(1e-7, (n + 1) * 1e-6, 80 * (n + 1), 16384, 2e-8)
    )


TWO_CAUSES = replace(
    PRECISION,
    verdict=Verdict.SEMANTIC,
    reason="Another epsilon is used; besides, the kernels differ.",
    origins=(
        Origin(
            Site("model.norm", "add", occurrence=1, slot="output"),
            Site("decoder.norm", "add", occurrence=1, slot="output"),
            "arguments",
            Verdict.SEMANTIC,
            differs(1e-5, math.inf, 4096, 16384, math.nan),
            region=(Site("decoder.norm", "mul"), Site("decoder.norm", "rsqrt")),
        ),
        *map(_kernel, (0, 1, 2, 3, 7)),
    ),
    causes=(
        Cause(
            "SE003",
            "other-epsilon",
            "model.norm.eps",
            Verdict.SEMANTIC,
            remedy=Remedy("Use the reference's epsilon.", "model.norm.eps = 1e-5"),
            status="confirmed",
            experiments=(
                Experiment(
                    (Intervention("set-scalar", "model.norm.eps", 1e-5),),
                    "The semantic part goes.",
                    "only rounding is left",
                    "confirmed",
                    before=1e-2,
                    after=1e-7,
                ),
            ),
        ),
        Cause(
            "RO001", "shape-dependent-kernel", "model.layers.*.mlp", Verdict.ROUNDING, reason="No kernel was forced."
        ),
    ),
    accounted=False,
)

INCONCLUSIVE = replace(
    PRECISION,
    verdict=Verdict.INCONCLUSIVE,
    reason="The trace holds no payloads, so no experiment could run.",
    causes=(),
    accounted=None,
    not_compared=(Count("payload", "it was not kept (--payloads none)", 2239, ("model.layers.0:mm#0.output",)),),
    impact=(),
    growth=(Growth(_ROTARY, Comparison("not_compared", "no payload")),),
)

INCOMPARABLE = replace(
    IDENTICAL,
    verdict=Verdict.INCOMPARABLE,
    reason="No call of the reference has a counterpart.",
    outputs=(("output.0", Comparison("not_compared", "f32[2,3] against f32[3,2]")),),
    alignment=Alignment((), unpaired_reference=tuple(range(40)), unpaired_candidate=(0, 1, 2, 9)),
    not_compared=(Count("call", "it has no counterpart", 44, ("encoder.stem:conv2d#0", "backbone:mm#3")),),
)

INCOMPLETE = replace(
    PRECISION,
    sides=(REFERENCE, replace(CANDIDATE, complete=False, note="The capture was killed after step 3.", calls=1200)),
    alignment=Alignment(tuple(Pair(i, i) for i in range(1200)), unpaired_reference=tuple(range(1200, 2239))),
    not_compared=(Count("call", "the candidate's trace ends before it", 1039, ("model.layers.16:mm#0",)),),
)

NONDETERMINISTIC = replace(
    PRECISION,
    verdict=Verdict.NONDETERMINISTIC,
    reason="The candidate differs from itself.",
    causes=(),
    sides=(
        REFERENCE,
        replace(
            CANDIDATE, observer=ObserverCheck(False, False, 3, "output.1 differs between two plain runs by 2.0e-07")
        ),
    ),
    accounted=None,
)

GOLDEN = {
    "identical": IDENTICAL,
    "precision": PRECISION,
    "two causes": TWO_CAUSES,
    "inconclusive": INCONCLUSIVE,
    "incomparable": INCOMPARABLE,
    "incomplete": INCOMPLETE,
    "nondeterministic": NONDETERMINISTIC,
}
