"""Unmodified scripts of the libraries that people train with."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest
from tests.scores.programs_of_training import optax_loop

from whydiff.errors import UnsupportedError
from whydiff.pipeline import compare
from whydiff.records import Verdict
from whydiff.studies.training import TrainingOptions, compare_training

pytestmark = pytest.mark.usefixtures("looked_through")

TRAINER = """
import sys
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

transformers.set_seed(0)
config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                     max_position_embeddings=16)
model = LlamaForCausalLM(config)
data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 32, (24, 8))]
rate, checkpointed = float(sys.argv[1]), "checkpointed" in sys.argv
arguments = TrainingArguments(OUT, per_device_train_batch_size=4, max_steps=4, learning_rate=rate, use_cpu=True,
                              gradient_accumulation_steps=2, gradient_checkpointing=checkpointed,
                              report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no")
Trainer(model=model, args=arguments, train_dataset=data).train()
"""
ACCELERATE = """
import sys
import torch
from accelerate import Accelerator

torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
data = torch.utils.data.DataLoader(torch.randn(24, 6), batch_size=4)
model, optimizer, data = accelerator.prepare(model, optimizer, data)
for step, batch in enumerate(data):
    optimizer.zero_grad()
    accelerator.backward(model(batch).square().mean())
    if "clipped" in sys.argv or step < 3:
        accelerator.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()
"""
SCALER = """
import sys
import torch

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach="foreach" in sys.argv)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
for step in range(5):
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(4, 6)).square().mean()
    scaler.scale(loss).backward()
    if "unscaled" in sys.argv:
        scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    scaler.step(optimizer)
    scaler.update()
"""
LIGHTNING = """
import sys
import pytorch_lightning as lightning
import torch

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def training_step(self, batch, index):
        return self.layers(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=float(sys.argv[1]))

lightning.seed_everything(0)
data = torch.utils.data.DataLoader(torch.randn(24, 6), batch_size=4)
trainer = lightning.Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False,
                            enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Module(), data)
"""
PLAIN = """
import sys
import torch
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
first, head = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh()), torch.nn.Linear(8, 1)
model = torch.nn.Sequential(first, head)
how = sys.argv[1]
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=how == "foreach", fused=how == "fused")
for x in torch.randn(4, 4, 6):
    optimizer.zero_grad()
    hidden = checkpoint(first, x, use_reentrant=False) if "checkpointed" in sys.argv else first(x)
    loss = head(hidden).square()
    (loss.sum() if "summed" in sys.argv else loss.mean()).backward()
    optimizer.step()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "train.py"


def written(path: Path, source: str) -> str:
    path.write_text(textwrap.dedent(source).replace("OUT", repr(str(path.parent / "out"))), encoding="utf-8")
    return str(path)


@pytest.mark.skipif("WHYDIFF_LIBRARIES" not in os.environ, reason="takes minutes: WHYDIFF_LIBRARIES=1 runs it")
def test_a_trainer_of_transformers(script: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    program = written(script, TRAINER)
    assert compare_training(f"{program} 1e-3", f"{program} 1e-3 checkpointed").verdict is Verdict.IDENTICAL
    found = compare_training(f"{program} 1e-3", f"{program} 2e-3")
    assert found.verdict is Verdict.SEMANTIC
    assert found.steps == (4, 4)
    assert found.parting is not None
    assert found.parting.first == 0
    assert found.diagnosis is not None
    assert [cause.code for cause in found.diagnosis.causes if cause.status == "confirmed"] == ["TR003"]


def test_a_loop_with_accelerate(script: Path) -> None:
    pytest.importorskip("accelerate")
    program = written(script, ACCELERATE)
    found = compare_training(f"{program} clipped", program)
    assert found.parting is not None
    assert (found.parting.step, found.parting.what) == (3, "gradients")
    assert found.verdict is Verdict.SEMANTIC


def test_a_gradient_scaler(script: Path) -> None:
    program = written(script, SCALER)
    assert compare_training(f"{program} unscaled", f"{program} unscaled foreach").verdict is Verdict.IDENTICAL
    found = compare_training(f"{program} unscaled", program)
    assert found.verdict is Verdict.SEMANTIC
    assert found.parting is not None
    assert (found.parting.step, found.parting.what) == (0, "gradients")


@pytest.mark.slow
def test_a_module_of_lightning(script: Path) -> None:
    """Its optimizers are given a closure in which forward and backward run."""
    pytest.importorskip("pytorch_lightning")
    program = written(script, LIGHTNING)
    found = compare_training(f"{program} 1e-2", f"{program} 2e-2")
    assert found.verdict is Verdict.SEMANTIC
    assert found.steps == (4, 4)
    assert found.parting is not None
    assert found.parting.first == 0
    assert found.diagnosis is not None
    assert [(cause.code, cause.status) for cause in found.diagnosis.causes] == [("TR003", "confirmed")]


@pytest.mark.parametrize("how", ["loop", "foreach", "fused"])
def test_a_plain_loop_in_every_form_of_an_optimizer(script: Path, how: str) -> None:
    program = written(script, PLAIN)
    options = TrainingOptions(diagnose=False)
    assert compare_training(f"{program} {how}", f"{program} {how} checkpointed", options).verdict is Verdict.IDENTICAL
    found = compare_training(f"{program} {how}", f"{program} {how} summed", options)
    assert found.steps == (4, 4)
    assert found.parting is not None
    assert (found.parting.step, found.parting.what) == (0, "losses")


def test_another_form_of_an_optimizer_is_rounding_at_the_most(script: Path) -> None:
    program = written(script, PLAIN)
    for how in ("foreach", "fused"):
        found = compare_training(f"{program} loop", f"{program} {how}")
        assert found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)
        causes = found.diagnosis.causes if found.diagnosis is not None else ()
        assert not [cause for cause in causes if cause.status in ("confirmed", "located")]


@pytest.mark.parametrize("form", ["", "scan"])
def test_a_loop_of_optax_is_refused_and_the_command_that_takes_it_is_named(form: str) -> None:
    pytest.importorskip("optax")
    program = f"{optax_loop.__file__} {form}"
    with pytest.raises(UnsupportedError, match=r"whydiff compare FILE\.py:reference FILE\.py:candidate"):
        compare_training(f"{program} 1e-2", f"{program} 2e-2")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jitted", "scanned"])
def test_that_command_explains_a_loop_of_optax(form: str) -> None:
    pytest.importorskip("optax")
    found = compare(getattr(optax_loop, form), getattr(optax_loop, f"{form}_faster"))
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO003", "confirmed")]
    assert "times 2" in found.causes[0].says
