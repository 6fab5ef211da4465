"""Unmodified scripts of the libraries that people train with."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from whydiff.records import Verdict
from whydiff.studies.training import compare_training

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
