"""A program that casts by itself follows into float64 in part: what it rounds there is not another function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from whydiff.capturing.adapters import for_target
from whydiff.capturing.adapters.torch.run import Run
from whydiff.explain.reruns import Rerun
from whydiff.explain.scale import Difference, Scale
from whydiff.pipeline import compare
from whydiff.records import Verdict


def normed(x: torch.Tensor) -> torch.Tensor:
    """A norm in float32, whatever the model's dtype, as language models have it."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).sum(-1, keepdim=True))
    return torch.sin(wide.to(x.dtype) * 3) * x


def from_the_end(factor: float) -> Callable[[Any, Any], Any]:
    """A compiler that adds from the other end, and multiplies what comes out."""

    class Otherwise(torch.fx.Interpreter):
        def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
            if target == "sum":
                return args[0].flip(-1).cumsum(-1)[..., -1:]
            return super().call_method(target, args, kwargs)

    def backend(graph: Any, _: Any) -> Any:
        return lambda *args: [out * factor for out in Otherwise(graph).run(*args)]

    return backend


def in_halves(factor: float) -> Callable[[Any, Any], Any]:
    """A compiler that rounds the sum of each half, and multiplies what comes out."""

    class Otherwise(torch.fx.Interpreter):
        def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
            if target == "sum":
                return sum(half.sum(-1, keepdim=True) for half in args[0].chunk(2, -1))
            return super().call_method(target, args, kwargs)

    def backend(graph: Any, _: Any) -> Any:
        return lambda *args: [out * factor for out in Otherwise(graph).run(*args)]

    return backend


def judged(factor: float, dtype: torch.dtype) -> str:
    torch.manual_seed(0)
    x = torch.randn(8, 512).to(dtype)
    compiled = torch.compile(normed, backend=from_the_end(factor))
    assert not torch.equal(compiled(x), normed(x))
    return str(compare(lambda: normed(x), lambda: compiled(x)).verdict)


def test_another_order_inside_of_its_own_casts_is_rounding() -> None:
    assert judged(1.0, torch.float32) == "rounding"


@pytest.mark.parametrize(("factor", "verdict"), [(1.001, "semantic"), (1.00001, "inconclusive")])
def test_another_function_stays_one_unless_it_is_as_small_as_its_casts(factor: float, verdict: str) -> None:
    assert judged(factor, torch.float32) == verdict


@pytest.mark.parametrize(("factor", "verdict", "asked"), [(1.0, "rounding", False), (1.1, "semantic", True)])
@pytest.mark.parametrize("cast", [True, False], ids=["casts", "follows"])
def test_float32_is_asked_for_only_where_float64_alone_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, factor: float, verdict: str, asked: bool, cast: bool
) -> None:
    """Of a program in 16 bits, whose own difference is no smaller than its roundings."""
    found: set[str] = set()
    lifted = Run.lifted

    def counted(self: Run, dtype: Any, *args: Any) -> Any:
        found.add(dtype)
        return lifted(self, dtype, *args)

    def summed(x: torch.Tensor) -> torch.Tensor:
        return (normed(x) if cast else x) * x.sum(-1, keepdim=True)

    monkeypatch.setattr(Run, "lifted", counted)
    torch.manual_seed(0)
    x = torch.randn(8, 512).bfloat16()
    compiled = torch.compile(summed, backend=in_halves(factor))
    assert not torch.equal(compiled(x), summed(x))
    assert compare(lambda: summed(x), lambda: compiled(x)).verdict == verdict
    assert ("float32" in found) == asked


def test_the_coarsest_cast_of_a_programs_own_is_told() -> None:
    x = torch.randn(3)

    def narrow(x: torch.Tensor) -> torch.Tensor:
        return x.float() + x.to(torch.bfloat16)

    for program, wanted in ((normed, "float32"), (torch.sin, ""), (narrow, "bfloat16")):
        before = x.clone()
        assert for_target(program).run(program, (x,), {}).casts_to() == wanted
        assert x.dtype is torch.float32
        assert torch.equal(x, before)


def test_casts_of_compiled_code_are_told_and_the_code_stays() -> None:
    x = torch.randn(3, 4)
    compiled = torch.compile(normed, backend=from_the_end(2.0))
    before = compiled(x)
    assert for_target(compiled).run(lambda: compiled(x), (), {}).casts_to() == "float32"
    assert torch.equal(compiled(x), before)


@pytest.mark.parametrize("coarse", ["", "candidate"])
def test_a_side_far_from_its_own_float64_run_is_no_matter_of_precision(coarse: Any) -> None:
    """In float64 both agree; before, one side lay a third of its size away: another program ran there."""
    shrinks = Rerun(Scale(Difference(0.3, 1.0), Difference(1e-16, 1.0)), (1e-8, 0.36), coarse)
    assert shrinks.strays and shrinks.verdict is Verdict.INCONCLUSIVE
    near = replace(shrinks, errors=(1e-8, 4e-3))
    assert not near.strays and near.verdict is (Verdict.PRECISION if coarse else Verdict.ROUNDING)
    both = replace(shrinks, errors=(0.2, 0.36))
    assert not both.strays
    stays = replace(shrinks, scale=Scale(Difference(0.3, 1.0), Difference(0.3, 1.0)), coarse="")
    assert stays.verdict is Verdict.SEMANTIC
