"""Real architectures in bfloat16, by the loader's dtype and by casting the loaded model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from whydiff.pipeline import compare
from whydiff.records import Cause, Diagnosis, Verdict

transformers.utils.logging.disable_progress_bar()
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": {"num_key_value_heads": 2},
    "Qwen2": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2},
    "Gemma2": {"num_key_value_heads": 2, "head_dim": 8},
    "GPTNeoX": {"hidden_size": 64, "num_attention_heads": 2},  # rotary on a quarter of each head
}
IDS = torch.arange(40).reshape(1, 40) % 64


def build(name: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(SMALL | ARCHITECTURES[name]))
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model = build(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return type(model), folder


@pytest.fixture(scope="module")
def cast(checkpoint: tuple[Any, Path]) -> tuple[Any, Diagnosis]:
    """The loaded model, and what is found where it was cast after it was loaded."""
    kind, folder = checkpoint
    loaded = kind.from_pretrained(folder, dtype=torch.bfloat16)
    return loaded, compare(loaded, kind.from_pretrained(folder).to(torch.bfloat16), input_ids=IDS, use_cache=False)


def unsaved_tables(model: Any) -> set[str]:
    return {name for name, _ in model.named_buffers()} - set(model.state_dict())


def of(causes: tuple[Cause, ...], code: str) -> list[Cause]:
    return [cause for cause in causes if cause.code == code]


def test_a_cast_rotary_table_is_named_and_proven(cast: tuple[Any, Diagnosis]) -> None:
    loaded, diagnosis = cast
    assert diagnosis.verdict is Verdict.PRECISION
    assert diagnosis.accounted
    confirmed = [cause for cause in diagnosis.causes if cause.status == "confirmed"]
    assert {cause.code for cause in confirmed} == {"ST003"}
    assert {cause.site for cause in confirmed} <= unsaved_tables(loaded)
    first = diagnosis.origins[0]
    assert first.leaves == (confirmed[0].site,)
    assert first.site.scope == confirmed[0].site.rpartition(".")[0]
    assert first.verdict is Verdict.PRECISION
    assert all(cause.inert for cause in diagnosis.causes if cause not in confirmed)


def test_the_pasted_remedy_makes_the_logits_equal(checkpoint: tuple[Any, Path], cast: tuple[Any, Diagnosis]) -> None:
    (kind, folder), (loaded, diagnosis) = checkpoint, cast
    cause = diagnosis.causes[0]
    assert cause.remedy is not None
    scope: dict[str, Any] = {"model": kind.from_pretrained(folder), "torch": torch}
    exec(cause.remedy.code, scope)
    with torch.no_grad():
        ours, theirs = (m(input_ids=IDS, use_cache=False).logits for m in (loaded, scope["model"]))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("how", ["itself", "deepcopy", "save and reload"])
def test_clean_pairs_are_identical_and_have_no_cause(checkpoint: tuple[Any, Path], how: str, tmp_path: Path) -> None:
    kind, folder = checkpoint
    model = kind.from_pretrained(folder)
    other = model
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "save and reload":
        model.save_pretrained(tmp_path)
        other = kind.from_pretrained(tmp_path)
    diagnosis = compare(model, other, input_ids=IDS, use_cache=False)
    assert diagnosis.verdict is Verdict.IDENTICAL
    assert diagnosis.causes == ()


class Table(torch.nn.Module):
    """A hand-written module with a table that is in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = torch.nn.Linear(16, 16)
        self.register_buffer("frequencies", 1e4 ** -(torch.arange(16) / 16), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(x.shape[0])[:, None] * self.frequencies.float()
        return self.project(x) * torch.cos(angles).to(x.dtype)


def test_a_hand_written_table_is_named_and_proven() -> None:
    reference, candidate = Table(), Table().to(torch.bfloat16)
    reference.project.to(torch.bfloat16)
    diagnosis = compare(reference, candidate, torch.linspace(-1, 1, 512).reshape(32, 16).bfloat16())
    assert diagnosis.verdict is Verdict.PRECISION
    assert [(c.code, c.site, c.status) for c in diagnosis.causes] == [("ST003", "frequencies", "confirmed")]


def test_a_rotary_base_differs_in_the_table_and_in_the_configuration() -> None:
    torch.manual_seed(0)
    reference = build("Llama")
    config = copy.deepcopy(reference.config)
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 5e5}
    candidate = type(reference)(config).eval()
    candidate.load_state_dict(reference.state_dict())
    causes = compare(reference, candidate, input_ids=IDS, use_cache=False).causes
    (table,) = [cause for cause in of(causes, "ST002") if not cause.inert]
    assert (table.site, table.status) == ("model.rotary_emb.inv_freq", "confirmed")
    assert [cause.inert for cause in of(causes, "ST006")] == [True]


def test_an_epsilon_in_every_norm_is_one_cause_with_its_configuration_key() -> None:
    reference = build("Llama")
    config = copy.deepcopy(reference.config)
    config.rms_norm_eps = 1e-4
    candidate = type(reference)(config).eval()
    candidate.load_state_dict(reference.state_dict())
    (cause,) = compare(reference, candidate, input_ids=IDS, use_cache=False).causes
    assert (cause.code, cause.status, len(cause.interventions)) == ("ST006", "confirmed", 5)
    assert ["rms_norm_eps"] in [evidence.data.get("config") for evidence in cause.evidence]
