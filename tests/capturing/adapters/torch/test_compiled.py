"""What is compiled for an experiment does not count against the compiler's limits afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from whydiff.capturing.adapters.torch.compiled import Versions, room_for_more


@pytest.fixture
def program(request: pytest.FixtureRequest) -> tuple[Callable[[torch.Tensor], torch.Tensor], list[str]]:
    """A compiled function of a vector, and the dtypes that it was compiled for, in order."""
    compiled_for: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        compiled_for.extend(str(one.dtype) for one in inputs if isinstance(one, torch.Tensor))
        return graph.forward

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    # Versions hang on the code, which all tests would share; equal codes are one.
    scaled.__code__ = scaled.__code__.replace(co_name=request.node.name)
    return torch.compile(scaled, backend=backend, dynamic=False), compiled_for


def test_versions_of_an_experiment_are_forgotten(program: Any) -> None:
    function, compiled_for = program
    function(torch.ones(3))
    before = Versions()
    for dtype in (torch.float64, torch.bfloat16):
        function(torch.ones(3, dtype=dtype))
    assert compiled_for == ["torch.float32", "torch.float64", "torch.bfloat16"]
    before.restore()
    function(torch.ones(3, dtype=torch.float64))
    assert compiled_for[3:] == ["torch.float64"], "the version of the experiment was still there"


def test_what_a_plain_run_of_a_new_program_compiles_stays(program: Any) -> None:
    function, compiled_for = program
    before = Versions()
    function(torch.ones(3))
    before.restore()
    function(torch.ones(3))
    assert compiled_for == ["torch.float32"]


def test_an_experiment_may_compile_more_than_the_users_limit(program: Any) -> None:
    function, compiled_for = program
    dtypes = torch.float32, torch.float64, torch.bfloat16
    with torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=2), room_for_more():
        for dtype in dtypes:
            function(torch.ones(3, dtype=dtype))
    assert compiled_for == [str(dtype) for dtype in dtypes]
