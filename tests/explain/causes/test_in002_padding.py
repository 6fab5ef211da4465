"""The same prompt alone and left-padded in a batch: are its tokens numbered alike?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from whydiff.capturing.adapters import for_framework
from whydiff.explain.case import Case
from whydiff.locate.localize import localize
from whydiff.pair.align import align
from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Intervention, Verdict

PROMPT = torch.randint(3, 97, (1, 6), generator=torch.Generator().manual_seed(1))
OTHER = torch.randint(3, 97, (1, 9), generator=torch.Generator().manual_seed(2))


def llama(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval().to(dtype)


def gpt2(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    return GPT2LMHeadModel(config).eval().to(dtype)


def padded(model: Any, *, positions: bool, alone: bool = False) -> Diagnosis:
    """The prompt alone, and behind three tokens of padding (as row 1 of two, or alone)."""
    ids = torch.cat([OTHER, torch.cat([torch.zeros(1, 3, dtype=torch.long), PROMPT], 1)])
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    if alone:
        ids, mask = ids[1:], mask[1:]
    given = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if positions else {}
    with torch.no_grad():
        return compare(lambda: model(PROMPT).logits, lambda: model(ids, attention_mask=mask, **given).logits[-1:, 3:])


def found(diagnosis: Diagnosis) -> list[tuple[str, str, Verdict]]:
    return [(c.site, c.status, c.verdict) for c in diagnosis.causes if c.code == "IN002"]


@pytest.mark.parametrize("alone", [True, False])
def test_learned_positions_that_count_the_padding_are_a_defect(alone: bool) -> None:
    diagnosis = padded(gpt2(), positions=False, alone=alone)
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert found(diagnosis) == [("transformer:arange#0", "located", Verdict.SEMANTIC)]
    assert "reference's +3" in next(c for c in diagnosis.causes if c.code == "IN002").evidence[0].statement


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_positions_that_count_the_padding_are_rounding(dtype: torch.dtype) -> None:
    diagnosis = padded(llama(dtype), positions=False)
    assert diagnosis.verdict is Verdict.ROUNDING  # only distances matter
    assert found(diagnosis) == [("model:arange#0", "located", Verdict.ROUNDING)]


@pytest.mark.parametrize("make", [gpt2, llama])
def test_right_positions_leave_rounding_and_no_cause(make: Callable[[], Any]) -> None:
    diagnosis = padded(make(), positions=True)
    assert diagnosis.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL)
    assert not found(diagnosis)
    assert not any(origin.site.op == "arange" for origin in diagnosis.origins)


@pytest.mark.parametrize("larger", ["reference", "candidate"])
def test_an_op_is_replaced_on_the_candidates_inputs_whichever_run_is_larger(larger: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, first, second = (torch.randn(*shape, generator=generator) for shape in ((4, 8), (8, 8), (8, 8)))

    def right(rows: int) -> Callable[[], torch.Tensor]:
        return lambda: torch.tanh(torch.tanh(x[:rows] @ first) @ second)

    def wrong(rows: int) -> Callable[[], torch.Tensor]:
        return lambda: torch.sigmoid(torch.sigmoid(x[:rows] @ first) @ second)

    rows = (4, 1) if larger == "reference" else (1, 4)
    runs = [for_framework("torch").run(target, (), {}) for target in (right(rows[0]), wrong(rows[1]))]
    traces = [run.capture() for run in runs]
    alignment = align(*traces)
    found, _ = localize(*traces, alignment, None)
    case = Case(*traces, alignment, found, tuple(runs))
    assert found.axes
    chain = [Intervention("replace-op", f":sigmoid#{n}", f":tanh#{n}") for n in range(2)]
    assert not case.experiments.try_out(chain[1:]).equal  # the first defect still acts
    assert case.experiments.try_out(chain).mean_abs == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("registered", "speaks"), [(True, "same positions"), (False, "begin with 6 in the reference, 0 in the")]
)
def test_rows_of_data_are_not_given_the_remedy_of_positions(registered: bool, speaks: str) -> None:
    table = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
    layer = torch.nn.Linear(4, 2)
    if registered:
        layer.register_buffer("table", table)

    def run(first: int) -> torch.Tensor:
        with torch.no_grad():
            return torch.tanh(layer(table[torch.arange(first, first + 6) % 12]))

    cause = next(c for c in compare(lambda: run(6), lambda: run(0)).causes if c.code == "IN002")
    assert cause.remedy is not None and speaks in cause.remedy.text


@pytest.mark.parametrize("counted", [False, True])
def test_positions_that_one_side_expands_and_the_other_counts_per_row_show_where(counted: bool) -> None:
    """What is expanded has no place for other numbers in each row: the read that takes them gets its own."""
    torch.manual_seed(0)
    words, places = torch.nn.Embedding(20, 8), torch.nn.Embedding(8, 8)
    ids = torch.tensor([[0, 0, 0, 5, 9], [4, 8, 15, 16, 1]])
    mask = (ids != 0).long()

    def run(count: bool) -> Any:
        own = (mask.cumsum(-1) - 1).clamp(min=0) if count else torch.arange(5)[None].expand_as(ids)
        return torch.tanh(words(ids) + places(own))

    found = compare(lambda: run(counted), lambda: run(not counted))
    assert found.verdict is Verdict.SEMANTIC
    (cause,) = found.causes
    assert (cause.code, cause.status) == ("IN002", "located")
    assert cause.experiments[0].after == 0
