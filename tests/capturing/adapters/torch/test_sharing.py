"""One trace serves many ways of compiling, and only where a fresh trace could be no other."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo import convert_frame

from whydiff.capturing.adapters import Way, for_target
from whydiff.capturing.adapters.torch.climbing import LAST, Climbing
from whydiff.capturing.adapters.torch.compiled import Copies, regions_are_kept_apart
from whydiff.capturing.adapters.torch.sharing import Traces, sharing
from whydiff.records import Intervention

WAYS = (Way("traced"), Way("aot_eager"), Way(LAST), Way("aot_eager", ("cse",)), Way("aot_eager_decomp_partition"))


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Sizes and numbers that differed once stay open for every module of PyTorch's that is compiled in the process."""
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The functions that dynamo traces."""
    found: list[str] = []
    compiling = convert_frame._compile

    def counted(code: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(code.co_name)
        return compiling(code, *args, **kwargs)

    monkeypatch.setattr(convert_frame, "_compile", counted)
    yield found


def louder(graph: Any, _: Any) -> Any:
    return lambda *args: [out * 1.5 if isinstance(out, torch.Tensor) else out for out in graph(*args)]


def run_of(program: Callable[[], Any]) -> Any:
    program()
    return for_target(program).run(program, (), {})


def given(run: Any, way: Way) -> list[torch.Tensor]:
    found = run.compiled_as(way)
    assert not found.failed
    return [torch.from_numpy(one.payload.bits.copy()) for one in found.outputs if one.payload is not None]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(*both) for both in zip(ours, theirs, strict=True))


def stepping() -> Callable[[], Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU(), torch.nn.LayerNorm(4))
    compiled, x = torch.compile(model, backend="aot_eager"), torch.randn(3, 4)

    def program() -> Any:
        loss = compiled(x).square().sum()
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    return program


def stepping_after_another() -> Callable[[], Any]:
    for rows in (2, 5):  # in the place of the same function of PyTorch's, whose sizes dynamo remembers
        torch.compile(torch.nn.Sequential(torch.nn.Linear(4, 4)), backend="eager")(torch.randn(rows, 4))
    return stepping()


def broken() -> Callable[[], Any]:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.sin()
        torch._dynamo.graph_break()
        return y * x

    compiled, x = torch.compile(function, backend=louder), torch.linspace(0, 1, 5)
    return lambda: compiled(x)


def branching() -> Callable[[], Any]:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.sin()
        return y * x if y.sum().item() > 0 else y + x

    compiled, x = torch.compile(function, backend="aot_eager"), torch.linspace(0, 1, 5)
    return lambda: compiled(x)


def sizes() -> Callable[[], Any]:
    compiled, x = torch.compile(lambda y: y.sin() * 2, backend=louder), torch.linspace(0, 1, 12)
    return lambda: [compiled(x[:n]) for n in (2, 3, 4)]


def open_sizes() -> Callable[[], Any]:
    compiled, x = torch.compile(lambda y: y.sin() * y.shape[0], backend=louder, dynamic=True), torch.linspace(0, 1, 12)
    return lambda: compiled(x)


def one_storage() -> Callable[[], Any]:
    compiled, x = torch.compile(lambda a, b: a.sin() + b, backend=louder), torch.linspace(0, 1, 12)
    return lambda: compiled(x[:4], x[4:8])


def counted() -> Callable[[], Any]:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.times = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.times += 1
            return x + self.times

    model = Counting()
    compiled, x = torch.compile(model, backend=louder), torch.ones(3)

    def program() -> Any:
        model.times = 0
        return [compiled(x), compiled(x)]

    return program


PROGRAMS: dict[str, tuple[Callable[[], Callable[[], Any]], bool]] = {
    "step after a module with several sizes": (stepping_after_another, False),
    "step": (stepping, True),
    "graph breaks": (broken, True),
    "branch on a value": (branching, True),
    "several sizes": (sizes, False),
    "open sizes": (open_sizes, False),
    "one storage": (one_storage, False),
    "a number that counts": (counted, False),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_shared_traces_give_is_what_fresh_ones_give(name: str, traced: list[str]) -> None:
    make, shared = PROGRAMS[name]
    run, program = run_of(make()), make()
    ways = WAYS if shared else WAYS[:3:2]  # nothing is kept for further ones
    fresh = [given(run_of(program), way) for way in ways]
    given(run, ways[0])
    traced.clear()
    for way, wanted in zip(ways, fresh, strict=True):
        assert same(given(run, way), wanted), way
    assert (not traced) == shared


def test_a_way_that_is_asked_for_again_is_compiled_once() -> None:
    asked: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        asked.append(graph)
        return louder(graph, inputs)

    compiled, x = torch.compile(lambda y: y.sin(), backend=backend), torch.ones(3)
    run = run_of(lambda: compiled(x))
    for way in (Way(LAST), Way("traced"), Way(LAST), Way(LAST, ("excess-precision",)), Way(LAST)):
        given(run, way)
    assert len(asked) == 3  # the program's own, as given, and with roundings in place
    run.plain((Intervention("round-in-place", "candidate"),))
    given(run, Way(run.rungs()[-1].name))  # the last rung by its own name
    assert len(asked) == 3


def test_a_backend_that_changes_its_graph_is_given_another_one_each_time() -> None:
    def doubling(graph: Any, _: Any) -> Any:
        for node in list(graph.graph.nodes):
            if node.op == "output":
                with graph.graph.inserting_before(node):
                    node.args = ([graph.graph.call_function(torch.mul, (node.args[0][0], 2))],)
        graph.recompile()
        return graph.forward

    compiled, x = torch.compile(lambda y: y + 1, backend=doubling), torch.ones(3)
    run = run_of(lambda: compiled(x))
    ways = Way(LAST), Way(LAST, ("cse",)), Way("traced")
    assert [given(run, way)[0].tolist() for way in ways] == [[4.0] * 3, [4.0] * 3, [2.0] * 3]


def test_compiling_draws_no_random_numbers_of_the_program() -> None:
    def drawing(graph: Any, _: Any) -> Any:
        torch.rand(3)
        return graph.forward

    compiled = torch.compile(lambda y: y + 1, backend=drawing)
    run = run_of(lambda: compiled(torch.zeros(2)) + torch.rand(2))
    assert same(given(run, Way("traced")), given(run, Way(LAST)))


def test_what_was_compiled_is_not_kept_alive() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.table = torch.nn.Linear(4, 4), [torch.ones(4)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + self.table[0] + torch.tensor([2.0])

    def seen() -> list[weakref.ref[Any]]:
        model, x = Net(), torch.randn(3, 4)
        compiled = torch.compile(model, backend=louder)
        run = run_of(lambda: compiled(x))
        for way in WAYS:
            given(run, way)
        return [weakref.ref(one) for one in (model, model.inner.weight, model.table[0], x)]

    found = seen()
    gc.collect()
    assert [one() for one in found] == [None] * 4


def test_without_sharing_every_block_traces_anew(traced: list[str]) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    compiled, x = torch.compile(function, backend=louder), torch.ones(3)
    compiled(x)
    traces = Traces()
    for _ in range(2):
        with Climbing(Way(LAST)):
            compiled(x)
        with sharing(traces), Climbing(Way(LAST)):
            compiled(x)
    assert traced.count("function") == 1 + 2 + 1
    assert compiled(x).tolist() == [3.0] * 3
    assert traced.count("function") == 4


def test_copies_are_run_in_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    compiled, x, own = torch.compile(function, backend=louder), torch.ones(3), function.__code__
    compiled(x)
    if regions_are_kept_apart():
        monkeypatch.setattr("whydiff.capturing.adapters.torch.compiled.regions_are_kept_apart", lambda: False)
    copies, seen = Copies(), []
    for _ in range(2):
        with copies.in_force():
            seen.append(function.__code__)
    with pytest.raises(KeyError), copies.in_force():
        raise KeyError
    assert seen[0] is seen[1] is not own
    assert seen[0] == own is function.__code__


def test_regions_of_autocast_are_looked_for_where_the_program_runs_and_compiles() -> None:
    def casting(graph: Any, _: Any) -> Any:
        def run(*args: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return graph(*args)

        return run

    x = torch.ones(2, 2)
    found = []
    for backend in (louder, casting):
        compiled = torch.compile(lambda y: y @ y, backend=backend)
        run = run_of(lambda c=compiled: c(x))
        assert run.autocasts()  # nobody looked
        for way in (Way("eager"), Way(run.rungs()[-1].name)):
            given(run, way)
        found.append(run.autocasts())
    assert found == [False, True]
