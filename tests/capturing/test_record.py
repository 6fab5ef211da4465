"""What `whydiff.capture` refuses before it begins."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

import whydiff
from whydiff.capturing import record
from whydiff.errors import UsageError


@pytest.mark.parametrize("level", ["op", "module", "step"])
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_an_unknown_option_is_named_with_those_that_there_are(level: str, framework: str, tmp_path: Path) -> None:
    if (level, framework) == ("module", "jax"):
        pytest.skip("JAX has no such level")
    with (
        pytest.raises(UsageError) as told,
        whydiff.capture(tmp_path / "a", level=level, framework=framework, payload=1),
    ):
        pass
    assert f"level {level} has no such option" in told.value.what and told.value.actual == "payload"
    assert "payloads, level" in told.value.expected and told.value.next_step
    assert ("roots" in told.value.expected) == (framework == "torch" and level != "step")
    assert not (tmp_path / "a").exists()


def test_an_option_of_the_framework_s_own_is_taken(tmp_path: Path) -> None:
    with whydiff.capture(tmp_path / "a", roots=[("net", torch.nn.Linear(2, 2))]):
        torch.ones(2) * 2


def test_the_options_that_are_named_are_those_of_the_function() -> None:
    parameters = inspect.signature(record.capture).parameters.values()
    assert tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY) == record._OPTIONS
