"""Everything outside the program that can change numbers."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters.torch.environment import environment, flags_now, set_flag


def test_fields() -> None:
    found = environment()
    assert found.versions["torch"] == torch.__version__ and found.versions["numpy"] == np.__version__
    assert {"python", "torch", "numpy"} <= found.versions.keys()
    assert {"machine", "cpu_capability", "cpu", "cores"} <= found.hardware.keys()
    assert {
        "threads",
        "interop_threads",
        "matmul_precision",
        "deterministic",
        "cuda_tf32",
        "cudnn_tf32",
        "mkldnn",
        "fp16_reduction",
        "bf16_reduction",
        "default_dtype",
        "grad_enabled",
        "inference_mode",
        "autocast_cpu",
        "sdp_flash",
        "sdp_mem_efficient",
        "sdp_math",
        "flush_denormal",
    } <= found.flags.keys()
    json.dumps([found.versions, found.hardware, found.flags, found.variables, found.rng])


def test_variables_are_those_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.delenv("MKL_CBWR", raising=False)
    assert environment().variables["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "MKL_CBWR" not in environment().variables


def test_random_states_are_told_apart() -> None:
    before = environment().rng
    assert before == environment().rng
    torch.rand(1), random.random(), np.random.rand()
    after = environment().rng
    assert all(before[name] != after[name] for name in ("torch", "python", "numpy"))


def test_modes_are_seen() -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        flags = environment().flags
    assert flags["inference_mode"] is True and flags["autocast_cpu"] == "bfloat16"
    assert environment().flags["autocast_cpu"] == "off"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", 2),
        ("matmul_precision", "medium"),
        ("deterministic", True),
        ("mkldnn", False),
        ("grad_enabled", False),
        ("cudnn_benchmark", True),
        ("cudnn_deterministic", True),
        ("cudnn_tf32", False),
    ],
)
def test_flags_are_set_and_put_back(name: str, value: Any) -> None:
    before = flags_now()
    try:
        assert set_flag(name, value)
        assert flags_now().as_dict()[name] == value != before.as_dict()[name]
    finally:
        set_flag(name, before.as_dict()[name])
    assert flags_now() == before


def test_an_unknown_flag_is_refused() -> None:
    assert not set_flag("no_such_flag", 1)
