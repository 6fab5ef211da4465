"""Everything outside the program that can change numbers."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters.torch.environment import autocast_depth, environment, flags_now, set_flag, switches_now


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


@pytest.mark.filterwarnings("ignore:get_state and legacy")
def test_another_generator_of_numpy_is_told_apart_too() -> None:
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(1))
        first = environment().rng["numpy"]
        assert environment().rng["numpy"] == first
        np.random.random()
        assert environment().rng["numpy"] != first
    finally:
        np.random.set_bit_generator(before)


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


@pytest.mark.parametrize("ask", [switches_now, autocast_depth])
@pytest.mark.parametrize("within", [False, True])
def test_an_interrupt_at_any_line_leaves_autocast_as_deep_as_it_was(ask: Callable[[], Any], within: bool) -> None:
    """An interrupt between asking how deep it is and taking that back left it deeper for ever."""
    interrupted = 0
    with torch.autocast("cpu", enabled=within) if within else nullcontext():
        before = torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()
        for line in range(1, 60):
            left = [line]

            def trace(frame: Any, event: str, argument: Any, left: list[int] = left) -> Any:
                if not frame.f_code.co_filename.endswith("environment.py"):
                    return None
                left[0] -= event == "line"
                if event == "line" and left[0] == 0:
                    raise KeyboardInterrupt
                return trace

            known = sys.gettrace()
            sys.settrace(trace)
            try:
                ask()
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                sys.settrace(known)
            assert (torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()) == before, line
    assert interrupted
