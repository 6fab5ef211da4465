"""Impact on a real pair, against a plain calculation that shares no code with it."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters import for_framework
from whydiff.explain.case import Case
from whydiff.explain.scaling import measure_scaling
from whydiff.judge.impact import impact, position_errors, scores_of
from whydiff.judge.noise_floor import prediction_limit
from whydiff.judge.outputs import Anchor, Compared
from whydiff.locate.localization import Localization
from whydiff.numbers.comparison import compare_payloads
from whydiff.pair.align import align
from whydiff.records import Slot

LENGTH = 32
LAYERS = 3
"""Of thirty: the first ones, with their real weights."""


@pytest.fixture(scope="module")
def short(smollm: Any) -> tuple[Any, Any]:
    """The demo's reference and candidate, of fewer layers."""
    models = tuple(copy.deepcopy(model) for model in smollm[:2])
    for model in models:
        del model.model.layers[LAYERS:]
        model.config.num_hidden_layers = LAYERS
    return models[0], models[1]


@pytest.fixture(scope="module")
def pair(short: Any) -> tuple[Anchor, Case, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Anchor, case, ids [1, T], float64 logits [T, V] of both sides."""
    reference, candidate = short
    ids = torch.randint(0, 40000, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    adapter = for_framework("torch")

    def logits(model: Any) -> Any:
        return lambda ids: model(ids, use_cache=False).logits

    with torch.no_grad():
        runs = [adapter.run(logits(model), (ids,), {}) for model in (reference, candidate)]
        traces = [run.capture() for run in runs]
        ours, theirs = (logits(model)(ids)[0].double() for model in (reference, candidate))
    alignment = align(*traces)
    payload = adapter.executor(traces[0]).payload
    returned = tuple(payload(x.bfloat16()[None]) for x in (ours, theirs))
    slot, numbers = Slot(0, "output"), (returned[0], returned[1])
    given = Anchor((Compared(slot, "values", compare_payloads(*numbers), numbers=numbers),))
    local = Localization(returned=((slot, *returned),))
    return given, Case(traces[0], traces[1], alignment, local), ids, ours, theirs


def test_flips_margins_kl_and_perplexity(pair: Any) -> None:
    given, case, ids, ours, theirs = pair
    found = {m.metric: m.value for m in impact(case, given)}
    first = ours.argmax(-1) != theirs.argmax(-1)
    assert found["top1_flips"] == pytest.approx(first.double().mean().item())
    assert found["first_flip"] == (int(first.nonzero()[0]) if first.any() else -1)
    top = ours.topk(2).values
    assert found["top1_margin_smallest"] == pytest.approx((top[:, 0] - top[:, 1]).min().item())
    if first.any():
        assert found["top1_margin_flipped"] == pytest.approx((top[:, 0] - top[:, 1])[first].max().item())
    kl = torch.nn.functional.kl_div(theirs.log_softmax(-1), ours.softmax(-1), reduction="none").sum(-1)
    assert found["kl_mean"] == pytest.approx(kl.mean().item(), rel=1e-9)
    assert found["kl_max"] == pytest.approx(kl.max().item(), rel=1e-9)
    perplexity = [torch.nn.functional.cross_entropy(x[:-1], ids[0, 1:]).exp().item() for x in (ours, theirs)]
    assert found["perplexity_reference"] == pytest.approx(perplexity[0], rel=1e-9)
    assert found["perplexity_change"] == pytest.approx(perplexity[1] / perplexity[0] - 1, abs=1e-9)
    same_five = [set(a.tolist()) == set(b.tolist()) for a, b in zip(ours.topk(5)[1], theirs.topk(5)[1], strict=True)]
    ties = (ours.sort(-1).values[:, -5] == ours.sort(-1).values[:, -6]) | (
        theirs.sort(-1).values[:, -5] == theirs.sort(-1).values[:, -6]
    )
    assert abs(found["top5_changes"] - (1 - np.mean(same_five))) <= ties.double().mean().item() + 1e-12


def test_the_defect_grows_with_the_position(pair: Any, short: Any) -> None:
    """In bfloat16 rounding hides it; without rounding the last quarter is twice the first."""
    given, case, ids, ours, theirs = pair
    scores = scores_of(case, given)
    assert scores is not None
    assert scores.length == LENGTH
    assert np.allclose(position_errors(scores), (ours - theirs).abs().mean(-1).numpy())
    scaling = measure_scaling(case)
    found = {m.metric: m.value for m in impact(case, given, scaling=scaling)}
    assert found["lifted_mean_abs_last_positions"] > 2 * found["lifted_mean_abs_first_positions"]
    assert found["lifted_position_correlation"] > 0.3
    with torch.no_grad():  # the same by hand: models converted as a whole, which keeps both tables' values
        wide = [copy.deepcopy(model).float()(ids, use_cache=False).logits[0].double() for model in short]
    plain = (wide[0] - wide[1]).abs().mean(-1)
    quarter = LENGTH // 4
    for name, part in (("first", plain[:quarter]), ("last", plain[-quarter:])):
        assert found[f"lifted_mean_abs_{name}_positions"] == pytest.approx(part.mean().item(), rel=0.05)


def test_prediction_limit_is_the_formula_of_its_source() -> None:
    samples = [1.0, 2.0, 4.0, 8.0, 1.0, 2.0, 4.0, 8.0]
    logs = [math.log(s) for s in samples]
    mean = sum(logs) / 8
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logs) / 7)
    assert prediction_limit(samples) == pytest.approx(math.exp(mean + 4.785 * deviation * math.sqrt(9 / 8)))
    assert prediction_limit([0.0, 0.0]) == 0.0
