"""Diagnoses to look at: one with everything in it, one of a hundred thousand ops."""

from __future__ import annotations

import math

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
    OpRow,
    Origin,
    Pair,
    Picture,
    Remedy,
    Side,
    Site,
    Verdict,
)

SIDE = Side(
    source="live",
    framework="torch",
    level="op",
    calls=9,
    environment=Environment(versions={"torch": "2.13.0"}),
    observer=ObserverCheck(deterministic=True, unchanged=True, outputs=1),
)
BLOCK = ("self_attn.q_proj", "self_attn.k_proj", "self_attn", "mlp.up_proj", "mlp.down_proj", "mlp", "norm")


def differs(size: float) -> Comparison:
    found = (Measurement("max_abs", 10 * size), Measurement("mean_abs", size), Measurement("rel_l2", size))
    return Comparison("differs", "60 of 100 elements differ", (*found, Measurement("different", 0.6, "elements")))


def experiment(direction: str) -> Experiment:
    return Experiment(
        interventions=(Intervention("set-scalar", "model.layers.1.norm.eps", 1e-5),),
        prediction="gives the other side's outputs bit for bit",
        outcome="bit-equal",
        status="confirmed",
        method="rerun",
        left="nothing",
        elements=182_016,
        direction=direction,  # type: ignore[arg-type]
    )


def diagnosis(layers: int, ops: int) -> Diagnosis:
    """A model of so many layers with seven modules each, and so many ops per module."""
    start = Site("model.layers.1.norm", "native_layer_norm", slot="output")
    rows, growth = [], []
    for layer in range(layers):
        for name in BLOCK:
            scope = f"model.layers.{layer}.{name}"
            apart = layer > 1 or (layer == 1 and name == "norm")
            first = (layer, name) == (1, "norm")
            for number in range(ops):
                rows.append(
                    OpRow(
                        scope=scope,
                        op="native_layer_norm" if name == "norm" else "mm",
                        state="starts here" if first and not number else "differs" if apart else "agrees",
                        target="aten.native_layer_norm.default" if name == "norm" else "aten.mm.default",
                        reads=(f"float32[{layer % 7 + 1},64]", "float32[64,64]"),
                        writes=(f"float32[{layer % 7 + 1},64]",),
                        occurrence=number,
                        source=f"model.py:{layer % 90 + 1}",
                    )
                )
            size = 1e-6 * (layer + 1) ** 1.5 if apart else 0.0
            site = Site(scope, rows[-1].op, occurrence=ops - 1, slot="output")
            growth.append(Growth(site, differs(size) if size else Comparison("agrees")))
    cause = Cause(
        code="FO002",
        name="epsilon-differs",
        site="model.layers.1.norm.eps",
        verdict=Verdict.SEMANTIC,
        says="the candidate adds 1e-3 where the reference adds 1e-5",
        evidence=(Evidence("the candidate's epsilon is 1e-3, the reference's 1e-5"),),
        remedy=Remedy("Give both sides the same epsilon.", "candidate.model.layers[1].norm.eps = 1e-5"),
        status="confirmed",
        experiments=(experiment("take_away"), experiment("put_in")),
        effect=(Measurement("one_in", 0.25, "output elements"),),
    )
    wave = tuple(tuple(abs(math.sin(i * j / 40)) * 1e-3 for j in range(48)) for i in range(32))
    origin = Origin(
        site=start,
        candidate_site=start,
        kind="arguments",
        verdict=Verdict.SEMANTIC,
        comparison=differs(1e-4),
        evidence=(Evidence("its inputs agree and its arguments differ"),),
    )
    return Diagnosis(
        verdict=Verdict.SEMANTIC,
        reason="another epsilon is used",
        origins=(origin,),
        causes=(cause,),
        impact=(Measurement("different", 0.6, "logits"), Measurement("max_abs", 0.56, "logits")),
        outputs=(("logits", differs(0.01)),),
        growth=tuple(growth),
        alignment=Alignment(tuple(Pair(i, i) for i in range(len(rows)))),
        sides=(SIDE, SIDE),
        environment_changes=(("versions.torch", "2.5.0", "2.13.0"),),
        not_compared=(Count("values without a fingerprint", "they are empty", 3, ("model.x:empty#0",)),),
        accounted=True,
        ops=tuple(rows),
        pictures=(
            Picture(
                name="logits",
                spec="float32[32,480]",
                grid=wave,
                rows=1,
                columns=10,
                ulps=((1, 900), (2, 420), (4, 60)),
                first=(0, 7),
                values=("1.25", "1.2500012"),
                seen=(15_360, 15_360),
            ),
        ),
    )
