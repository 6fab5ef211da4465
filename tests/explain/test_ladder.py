"""The ladder names the part of a compiler that makes a difference, and leaves the program's compiled code alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from whydiff.capturing.adapters import Way, for_target
from whydiff.explain.ladder import Climb, climb
from whydiff.pipeline import Options, compare


def climbed(program: Callable[[], Any], **more: Any) -> Climb | None:
    run = for_target(program).run(program, (), {})
    run.anchor()
    return climb(run, "candidate", **more)


def doubled(graph: Any, _: Any) -> Any:
    return lambda *args: [out * 2 for out in graph(*args)]


def gated(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(x) * x + 1


def test_a_program_that_compiles_nothing_has_no_ladder() -> None:
    x = torch.randn(4)
    assert climbed(lambda: gated(x)) is None


def test_a_compiled_program_that_gives_the_same_bits_has_nothing_to_find() -> None:
    x, compiled = torch.randn(4), torch.compile(gated, backend="aot_eager")
    assert climbed(lambda: compiled(x)) is None


def test_a_backend_of_ones_own_is_named() -> None:
    x, compiled = torch.randn(4), torch.compile(gated, backend=doubled)
    found = climbed(lambda: compiled(x))
    assert found is not None
    assert (found.component, found.below, found.mended_below) == ("doubled", "aot_eager", True)
    assert not found.stale


def test_a_decomposition_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import decomposition

    def wrong(x: torch.Tensor, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
        return torch.clamp(x, low, high) * 0.5

    for table in (decomposition.decompositions, decomposition.fast_random_decomps()):
        monkeypatch.setitem(table, torch.ops.aten.hardtanh.default, wrong)
    x, compiled = torch.randn(8), torch.compile(torch.nn.functional.hardtanh, backend="aot_eager_decomp_partition")
    found = climbed(lambda: compiled(x))
    assert found is not None
    assert found.part is not None
    assert (found.component, found.part.name, found.item) == (
        "aot_eager_decomp_partition",
        "decomposition",
        "aten.hardtanh.default",
    )


@pytest.mark.slow
def test_a_lowering_is_named() -> None:
    """Inductor of PyTorch 2.13 multiplies whole numbers made by ``arange`` in 32 bits (pytorch#175966)."""

    def steps() -> torch.Tensor:
        return torch.arange(0, 11, dtype=torch.int64) * torch.tensor([10**9])

    compiled = torch.compile(steps)
    if torch.equal(compiled(), steps()):
        pytest.skip("this version of the compiler multiplies rightly")
    found = climbed(compiled)
    assert found is not None
    assert found.part is not None
    assert (found.component, found.part.name, found.item) == ("inductor", "lowerings", "mul")


def test_compiled_code_of_another_state_of_the_program_is_called_stale() -> None:
    """Without guards, compiled code keeps the number it was compiled with."""
    holder, x = torch.nn.Linear(2, 2), torch.ones(2)
    holder.factor = 2.0  # type: ignore[assignment]

    def scaled(x: torch.Tensor) -> Any:
        return x * holder.factor

    unguarded: Any = {"guard_filter_fn": lambda guards: [False for _ in guards]}
    compiled = torch.compile(scaled, backend="inductor", options=unguarded)
    compiled(x)
    holder.factor = 3.0  # type: ignore[assignment]
    assert compiled(x).tolist() == [2.0, 2.0]
    found = climbed(lambda: compiled(x))
    assert found is not None
    assert found.stale
    assert compiled(x).tolist() == [2.0, 2.0]


def test_a_rung_that_makes_a_larger_difference_is_told_and_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from whydiff.capturing.adapters import Compiled, Rung
    from whydiff.capturing.adapters.torch.run import Run

    given: dict[str, float] = {"eager": 1.0, "middle": 9.0, "last": 1.5}
    x = torch.ones(4)
    run = Run(lambda: x * 1.5, (), {})
    like = {number: Run(lambda number=number: x * number, (), {}).anchor() for number in given.values()}
    monkeypatch.setattr(run, "rungs", lambda: (Rung("middle", "middle"), Rung("last", "last")))
    monkeypatch.setattr(run, "compiled_as", lambda way: Compiled(like[given[way.rung]]))
    found = climb(run, "candidate")
    assert found is not None
    assert (found.component, found.below, found.larger) == ("last", "eager", ("middle",))
    assert "'middle' make another, larger one" in str(found)


def test_a_rung_below_one_that_makes_none_of_it_is_not_compiled() -> None:
    x, compiled = torch.randn(4), torch.compile(gated, backend=doubled)
    found = climbed(lambda: compiled(x))
    assert found is not None
    assert [(step.way.rung, step.apart == 0) for step in found.steps] == [("doubled", False), ("aot_eager", True)]


@pytest.mark.parametrize(
    ("given", "component", "below", "larger"),
    [
        ((1.5, 1.0, 1.5), "last", "high", ()),  # what a low rung makes is mended: it is not what is there at the end
        ((1.0, 1.5, 1.5), "high", "low", ()),
        ((1.5, 1.5, 1.5), "low", "eager", ()),
        ((9.0, 1.5, 1.5), "high", "eager", ("low",)),
        ((9.0, 9.0, 1.5), "last", "eager", ("low", "high")),
        ((1.5, None, 1.5), "low", "eager", ()),  # the one between raises
    ],
)
def test_the_rung_is_the_last_one_with_which_the_difference_comes_in(
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[float | None, ...],
    component: str,
    below: str,
    larger: tuple[str, ...],
) -> None:
    from whydiff.capturing.adapters import Compiled, Rung
    from whydiff.capturing.adapters.torch.run import Run

    x = torch.ones(4)
    run = Run(lambda: x * 1.5, (), {})
    names = ("eager", "low", "high", "last")
    factors = dict(zip(names, (1.0, *given), strict=True))
    like = {f: Run(lambda f=f: x * f, (), {}).anchor() for f in factors.values() if f is not None}
    monkeypatch.setattr(run, "rungs", lambda: tuple(Rung(name, name) for name in names[1:]))
    monkeypatch.setattr(run, "compiled_as", lambda way: Compiled(like.get(factors[way.rung])))
    found = climb(run, "candidate")
    assert found is not None
    assert (found.component, found.below, found.larger) == (component, below, larger)


def normed(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(torch.nn.functional.softplus(x), (64,))


def decomposed() -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """An input of shape (16, 64), and a program of which the decomposition alone makes rounding."""
    torch.manual_seed(0)
    return torch.randn(16, 64), torch.compile(normed, backend="aot_eager_decomp_partition")


def test_of_rounding_parts_are_looked_for_for_a_shorter_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from whydiff.explain import ladder

    monkeypatch.setattr(ladder, "PARTS_SECONDS", -1.0)
    x, compiled = decomposed()
    found = climbed(lambda: compiled(x), items=False)
    assert found is not None
    assert (found.component, found.part_name, found.unfinished) == ("aot_eager_decomp_partition", "", "time ran out")
    whole = climbed(lambda: compiled(x))
    assert whole is not None
    assert (whole.part_name, whole.unfinished) == ("decomposition", "")


def test_time_is_bounded_and_what_was_not_reached_is_said() -> None:
    x, compiled = torch.randn(4), torch.compile(gated, backend=doubled)
    found = climbed(lambda: compiled(x), seconds=0.0)
    assert found is not None
    assert not found.component
    assert found.unfinished in str(found)
    assert found.unfinished


def test_of_rounding_no_single_op_is_looked_for() -> None:
    """Many make a little each; the part of the compiler is named all the same."""
    x, compiled = decomposed()
    found = climbed(lambda: compiled(x), items=False)
    assert found is not None
    assert (found.component, found.part_name, found.item) == ("aot_eager_decomp_partition", "decomposition", "")
    diagnosis = compare(lambda: normed(x), lambda: compiled(x))
    assert str(diagnosis.verdict) == "rounding"
    assert [(cause.code, cause.status) for cause in diagnosis.causes] == [("CP002", "located")]


def test_progress_is_told_of_every_way() -> None:
    x, compiled = torch.randn(4), torch.compile(gated, backend=doubled)
    told: list[str] = []
    compare(lambda: gated(x), lambda: compiled(x), options=Options(progress=lambda stage, *_: told.append(stage)))
    assert any(stage.startswith("compile the candidate anew") for stage in told)


def test_its_own_compiled_code_and_settings_stay() -> None:
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    compilings = [0]

    def counting(graph: Any, inputs: Any) -> Any:
        compilings[0] += 1
        return doubled(graph, inputs)

    def broken(x: torch.Tensor) -> torch.Tensor:
        y = gated(x)
        torch._dynamo.graph_break()
        return y.tanh()

    x, compiled = torch.randn(4), torch.compile(broken, backend=counting)
    before, settings = compiled(x), (inductor.save_config(), dynamo.save_config())
    compare(lambda: broken(x), lambda: compiled(x))
    assert (inductor.save_config(), dynamo.save_config()) == settings
    compilings[0] = 0
    assert torch.equal(compiled(x), before)
    assert compilings == [0]


def test_a_way_that_raises_is_said_and_told_apart() -> None:
    def raising(graph: Any, _: Any) -> Any:
        if raising.calls:  # type: ignore[attr-defined]
            raise RuntimeError("no second time")
        raising.calls = 1  # type: ignore[attr-defined]
        return doubled(graph, _)

    raising.calls = 0  # type: ignore[attr-defined]
    x, compiled = torch.randn(4), torch.compile(gated, backend=raising)
    compiled(x)
    run = for_target(compiled).run(lambda: compiled(x), (), {})
    assert [rung.name for rung in run.rungs()][:2] == ["traced", "aot_eager"]
    given = run.compiled_as(Way("as given"))
    assert given.outputs is None
    assert "no second time" in given.failed
