"""Chunks and caches against one pass, token by token: verdicts, planted defects, the command line."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import whydiff
from whydiff.cli import app
from whydiff.errors import UsageError
from whydiff.records import Verdict
from whydiff.studies.decoding.ways import even, in_pieces

transformers = pytest.importorskip("transformers")
LENGTH, PROMPT = 6, 3
DTYPES = [torch.float32, torch.bfloat16]
SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@functools.cache
def llama(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config).eval().to(dtype)


def ids(rows: int = 1) -> torch.Tensor:
    return torch.randint(0, 97, (rows, LENGTH), generator=torch.Generator().manual_seed(1))


def one_by_one(
    model: Any,
    *,
    positions: Callable[[int, int], torch.Tensor] | None = None,
    narrow: torch.dtype | None = None,
    forget_at: int = 0,
    whole: bool = False,
) -> Callable[[torch.Tensor], Any]:
    """A decoder of the user's own, right unless it is asked for a mistake."""

    def decode(tokens: torch.Tensor) -> Any:
        cache, found, start = None, [], 0
        for length in (PROMPT, *(1,) * (LENGTH - PROMPT)):
            given = {"position_ids": positions(start, length)} if positions else {}
            before = [(layer.keys, layer.values) for layer in cache.layers] if cache else []
            result = model(tokens[:, start : start + length], past_key_values=cache, use_cache=True, **given)
            cache, start = result.past_key_values, start + length
            for layer, kept in zip(cache.layers, before, strict=False):
                if start == forget_at:
                    layer.keys, layer.values = kept
            for layer in cache.layers if narrow else ():
                layer.keys, layer.values = (
                    layer.keys.to(narrow).to(model.dtype),
                    layer.values.to(narrow).to(model.dtype),
                )
            found.append(result.logits)
        return torch.cat(found, 1) if whole else tuple(found)

    return decode


def behind(start: int, length: int) -> torch.Tensor:
    """Positions of the steps begin one too early."""
    first = max(start - 1, 0)
    return torch.arange(first, first + length)[None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_right_cache_is_rounding_at_every_position(dtype: torch.dtype) -> None:
    model, tokens = llama(dtype), ids(2)
    study = whydiff.compare_decoding(model, tokens, chunk=4, prompt=PROMPT)
    assert study.verdict in SAME, study.reason
    assert [way.pieces for way in study.ways] == [(4, 2), (3, 1, 1, 1)]
    once = model(tokens, use_cache=False).logits
    for way in study.ways:
        plain = torch.cat(in_pieces(model, way.pieces)(tokens), 1)
        apart = (plain.double() - once.double()).abs()
        assert len(way.tokens) == tokens.numel()
        for one in way.tokens:
            at = one.sequence, one.position
            assert (one.verdict is Verdict.IDENTICAL) == torch.equal(plain[at], once[at])
            assert one.max_abs == apart[at].max().item()
            assert one.mean_abs == pytest.approx(apart[at].mean().item())
            assert one.different == pytest.approx((plain[at] != once[at]).double().mean().item())
            assert one.token == tokens[at].item()
            assert one.first == (once[at].argmax().item(), plain[at].argmax().item())
            best = once[at].double().topk(2).values
            assert one.margin == pytest.approx((best[0] - best[1]).item())
            assert one.piece == (one.position // 4 if way.pieces[0] == 4 else max(0, one.position - PROMPT + 1))
            assert one.double is not None
            assert one.double < 1e-12


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_wrong_position_is_semantic_from_its_token_on_and_named(dtype: torch.dtype) -> None:
    model = llama(dtype)
    own = {"right": one_by_one(model, whole=True), "behind": one_by_one(model, positions=behind)}
    study = whydiff.compare_decoding(model, ids(), ways=own, diagnose=dtype is torch.float32)
    right, wrong = study.way("right"), study.way("behind")
    assert right.verdict in SAME, right.reason
    assert right.causes == ()
    assert (study.verdict, wrong.verdict) == (Verdict.SEMANTIC, Verdict.SEMANTIC)
    first = wrong.first(Verdict.SEMANTIC)
    assert first is not None
    assert first.position == PROMPT
    assert all(token.verdict in SAME for token in wrong.tokens[:PROMPT])
    assert all(token.verdict is Verdict.SEMANTIC for token in wrong.tokens[PROMPT:])
    if dtype is torch.float32:
        assert {c.code for c in wrong.causes if c.status == "confirmed"} == {"IN002"}


def serving(model: Any, mixed_up: bool) -> Callable[[torch.Tensor], Any]:
    """Two prompts are read; then the second is continued with its own cache, or with the first one's."""

    def decode(tokens: torch.Tensor) -> Any:
        other = (tokens + 7) % 97
        results = [model(prompt[:, :PROMPT], use_cache=True) for prompt in (other, tokens)]
        cache, found = results[0 if mixed_up else 1].past_key_values, [results[1].logits]
        for at in range(PROMPT, LENGTH):
            found.append(model(tokens[:, at : at + 1], past_key_values=cache, use_cache=True).logits)
        return torch.cat(found, 1)

    return decode


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_another_prompts_cache_is_semantic_and_named(dtype: torch.dtype) -> None:
    model = llama(dtype)
    own = {"own cache": serving(model, False), "mixed up": serving(model, True)}
    study = whydiff.compare_decoding(model, ids(), ways=own, diagnose=dtype is torch.float32)
    wrong = study.way("mixed up")
    assert study.way("own cache").verdict in SAME
    assert wrong.verdict is Verdict.SEMANTIC, wrong.reason
    if dtype is torch.float32:
        assert wrong.against == "own cache"
        assert {c.code for c in wrong.causes if c.status == "confirmed"} == {"IN004"}


def test_a_step_that_is_not_kept_in_the_cache_is_semantic() -> None:
    model = llama()
    own = {"forgets": one_by_one(model, forget_at=PROMPT + 1)}
    wrong = whydiff.compare_decoding(model, ids(), ways=own, diagnose=False).way("forgets")
    first = wrong.first(Verdict.SEMANTIC)
    assert first is not None
    assert first.position == PROMPT + 1
    assert wrong.causes == ()


def test_a_cache_in_a_narrower_dtype_is_precision() -> None:
    model = llama()
    own = {"narrow": one_by_one(model, narrow=torch.bfloat16)}
    study = whydiff.compare_decoding(model, ids(), ways=own, diagnose=False)
    assert study.way("narrow").verdict is Verdict.PRECISION
    assert {t.verdict for t in study.way("narrow").tokens[PROMPT:]} == {Verdict.PRECISION}


def test_padding_is_left_out_and_counted() -> None:
    tokens = ids()
    mask = torch.ones_like(tokens)
    mask[:, :2] = 0
    given = {"input_ids": tokens, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    study = whydiff.compare_decoding(llama(), given, prompt=4)
    assert study.verdict in SAME, study.reason
    for way in study.ways:
        assert [token.position for token in way.tokens] == list(range(2, LENGTH))
        assert [(c.what, c.count) for c in way.not_compared if c.what == "positions"] == [("positions", 2)]


def test_a_way_that_does_not_repeat_itself() -> None:
    model = llama()

    def noisy(tokens: torch.Tensor) -> torch.Tensor:
        return model(tokens, use_cache=False).logits * (1 + int.from_bytes(os.urandom(2), "big"))

    study = whydiff.compare_decoding(model, ids(), ways={"noisy": noisy})
    assert study.way("noisy").verdict is Verdict.NONDETERMINISTIC


@pytest.mark.parametrize("wrong", [{"chunk": 0}, {"chunk": LENGTH}, {"prompt": LENGTH}, {"prompt": 0}])
def test_pieces_that_do_not_fit(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="cut like this"):
        whydiff.compare_decoding(llama(), ids(), **wrong)


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(UsageError, match="no token ids"):
        whydiff.compare_decoding(llama(), ids()[0])
    with pytest.raises(UsageError, match="takes no cache"):
        whydiff.compare_decoding(torch.nn.Embedding(97, 5), ids())
    with pytest.raises(UsageError, match="every position"):
        whydiff.compare_decoding(llama(), ids(), ways={"last": lambda t: llama()(t, use_cache=False).logits[:, -1:]})


def test_a_model_without_a_cache_and_ways_of_ones_own() -> None:
    table = torch.nn.Embedding(97, 5)
    study = whydiff.compare_decoding(table, ids(), ways={"backwards": lambda t: table(t.flip(1)).flip(1)})
    assert [way.name for way in study.ways] == ["backwards"]
    assert study.verdict is Verdict.IDENTICAL


@pytest.mark.parametrize(("total", "length", "pieces"), [(7, 3, (3, 3, 1)), (6, 3, (3, 3)), (2, 5, (2,))])
def test_even_pieces(total: int, length: int, pieces: Sequence[int]) -> None:
    assert even(total, length) == pieces


PROGRAM = f"""
import torch
torch.manual_seed(0)

class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(11, 16)

    def forward(self, input_ids, past_key_values=None, use_cache=False):
        new = self.table(input_ids)
        keys = new if past_key_values is None else torch.cat([past_key_values, new], 1)
        mask = torch.ones(new.shape[1], keys.shape[1], dtype=torch.bool).tril(keys.shape[1] - new.shape[1])
        weights = (new @ keys.mT / 16).masked_fill(~mask, float("-inf")).softmax(-1)
        return Out(weights @ keys @ self.table.weight.T, keys)

class Out:
    def __init__(self, logits, past_key_values):
        self.logits, self.past_key_values = logits, past_key_values

model = Decoder().requires_grad_(False)

def inputs():
    return torch.arange({LENGTH})[None] % 11

def amnesia(tokens):
    return torch.cat([model(part).logits for part in tokens.split(3, 1)], 1)
"""


def test_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "decoder.py"
    file.write_text(PROGRAM)
    saved = tmp_path / "report.txt"
    run = CliRunner().invoke(
        app, ["decoding", f"{file}:model", "--chunk", "4", "--allow", "rounding", "--save", str(saved)]
    )
    assert run.exit_code == 0, run.output
    assert "prefill in chunks of 4" in saved.read_text()
    wrong = ["decoding", f"{file}:model", "--way", f"{file}:amnesia", "--no-diagnose", "--json", "--allow", "rounding"]
    run = CliRunner().invoke(app, wrong)
    assert run.exit_code == 1, run.output
    data = json.loads(run.stdout)
    assert data["schema_version"] == 1
    assert data["verdict"] == "semantic"
    assert [t["verdict"] == "semantic" for t in data["ways"][2]["tokens"]] == [at >= 3 for at in range(LENGTH)]
    assert CliRunner().invoke(app, ["decoding", f"{file}:nothing"]).exit_code == 2


class Cached(torch.nn.Module):
    """One attention layer with learned positions; ``late``: positions after a cache are one too far."""

    def __init__(self, late: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = torch.nn.Embedding(50, 16), torch.nn.Embedding(64, 16)
        self.query, self.key, self.value = (torch.nn.Linear(16, 16) for _ in range(3))
        self.head, self.late = torch.nn.Linear(16, 50), late

    def forward(self, given: Any, past_key_values: Any = None, use_cache: bool = False) -> Any:
        past = 0 if past_key_values is None else past_key_values[0].shape[1]
        length = given.shape[1]
        x = self.words(given) + self.places(torch.arange(length) + past + (self.late if past else 0))
        key, value = self.key(x), self.value(x)
        if past:
            key, value = (torch.cat(pair, 1) for pair in zip(past_key_values, (key, value), strict=True))
        seen = torch.ones(length, past + length, dtype=torch.bool).tril(past)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            self.query(x)[:, None], key[:, None], value[:, None], attn_mask=seen
        )
        return SimpleNamespace(logits=self.head(x + mixed[:, 0]), past_key_values=(key, value))


def test_another_kernel_is_not_told_as_why_a_way_is_another_function() -> None:
    tokens = torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(1))
    right = whydiff.compare_decoding(Cached(0), tokens)
    assert right.verdict in SAME and "another function" not in str(right.answer())
    wrong = whydiff.compare_decoding(Cached(1), tokens)
    assert wrong.verdict is Verdict.SEMANTIC
    assert all(cause.verdict not in SAME for way in wrong.ways for cause in way.causes)
    assert "kernel" not in dict(wrong.answer())["why"]
