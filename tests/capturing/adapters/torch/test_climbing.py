"""Compiling anew in another way: what is left out is left out, and nothing stays behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whydiff.capturing.adapters import Way, for_target
from whydiff.capturing.adapters.torch.climbing import LAST, Climbing, name_of, rungs
from whydiff.capturing.adapters.torch.compiled import regions_are_kept_apart
from whydiff.capturing.adapters.torch.otherwise import autocast_off, decomposed, drawn_as_compiled
from whydiff.records import Intervention


def plain(program: Any, *interventions: Intervention) -> torch.Tensor:
    ((_, value),) = for_target(program).run(program, (), {}).plain(interventions)
    assert isinstance(value, torch.Tensor)
    return value


def tripled(graph: Any, _: Any) -> Any:
    return lambda *args: [out * 3 for out in graph(*args)]


def test_rungs_are_those_of_the_backends() -> None:
    assert rungs([]) == ()
    inductor = torch._TorchCompileInductorWrapper(None, None, None)  # type: ignore[no-untyped-call]
    assert [rung.name for rung in rungs([inductor])] == [
        "traced",
        "aot_eager",
        "aot_eager_decomp_partition",
        "inductor",
    ]
    assert [rung.name for rung in rungs([tripled])] == ["traced", "aot_eager", "tripled"]


def test_a_part_that_the_compiler_does_not_do_as_it_is_set_is_not_asked_for() -> None:
    from torch._inductor import config

    inductor = torch._TorchCompileInductorWrapper(None, None, None)  # type: ignore[no-untyped-call]
    with config.patch(emulate_precision_casts=True):
        names = [part.name for part in rungs([inductor])[-1].parts]
    assert "excess-precision" not in names
    assert "excess-precision" in [part.name for part in rungs([inductor])[-1].parts]


def test_the_hook_and_the_settings_are_put_back_where_the_program_raises() -> None:
    from torch._dynamo import eval_frame
    from torch._inductor import config
    from torch._inductor.compiler_bisector import CompilerBisector

    torch.compile(lambda x: x, backend="eager")(torch.ones(1))
    before = eval_frame._callback_from_stance, config.save_config(), vars(CompilerBisector)["disable_subsystem"]
    with pytest.raises(KeyError), Climbing(Way(LAST, ("lowerings",), 1)):
        raise KeyError
    after = eval_frame._callback_from_stance, config.save_config(), vars(CompilerBisector)["disable_subsystem"]
    assert after == before


def test_caches_serve_where_settings_alone_are_changed() -> None:
    """They keep settings apart; what was left out of a counted part they do not know."""
    from torch._functorch import config as functorch
    from torch._inductor import config

    torch.compile(lambda x: x, backend="eager")(torch.ones(1))
    before = config.fx_graph_cache, functorch.enable_autograd_cache
    for part in ("excess-precision", "fusion", "cse"):
        plain_key = config.get_hash(), functorch.get_hash()
        with Climbing(Way(LAST, (part,))):
            assert (config.fx_graph_cache, functorch.enable_autograd_cache) == before
            assert (config.get_hash(), functorch.get_hash()) != plain_key
    with Climbing(Way(LAST, ("lowerings",))):
        assert (config.fx_graph_cache, functorch.enable_autograd_cache) == (False, False)


@pytest.mark.slow
def test_what_a_cache_gives_is_of_the_way_that_is_asked_for() -> None:
    def gated(x: torch.Tensor) -> torch.Tensor:
        y = torch.sigmoid(x) * x
        return torch.tanh(y) * y + x

    torch.manual_seed(0)
    x, compiled = torch.randn(64, 64, dtype=torch.bfloat16), torch.compile(gated)
    wide, rounded = compiled(x), gated(x)
    assert not torch.equal(wide, rounded)
    for _ in range(2):
        with Climbing(Way(LAST, ("excess-precision",))):
            assert torch.equal(compiled(x), rounded)
        with Climbing(Way(LAST)):
            assert torch.equal(compiled(x), wide)
    assert torch.equal(compiled(x), wide)


def test_what_is_compiled_anew_is_no_version_of_the_program() -> None:
    if not regions_are_kept_apart():
        pytest.skip("this PyTorch keeps all versions together")

    def f(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    x, compiled = torch.ones(2), torch.compile(f, backend=tripled)
    compiled(x)
    with Climbing(Way("traced")) as climbing:
        assert compiled(x).tolist() == [2.0, 2.0]
    assert [name_of(backend) for backend in climbing.backends] == ["tripled"]
    assert compiled(x).tolist() == [6.0, 6.0]
    count = torch._C._dynamo.eval_frame._get_cache_entries_for_region
    assert len(count(f.__code__, -1)) == 1


def test_an_operator_can_be_carried_out_by_its_decomposition() -> None:
    x = torch.linspace(-3, 3, 7)
    with decomposed("aten.hardtanh.default"):
        assert torch.equal(torch.nn.functional.hardtanh(x), x.clamp(-1, 1))


@pytest.mark.slow
def test_draws_can_be_those_of_compiled_code() -> None:
    def noisy() -> torch.Tensor:
        return torch.randn(8)

    compiled = torch.compile(noisy)
    torch.manual_seed(3)
    wanted = compiled()
    torch.manual_seed(3)
    with drawn_as_compiled():
        given = noisy()
    torch.manual_seed(3)
    assert torch.equal(given, wanted)
    assert not torch.equal(noisy(), wanted)


def test_regions_of_autocast_can_be_turned_off() -> None:
    w, x = torch.ones(2, 2), torch.ones(2, 2)
    with autocast_off(), torch.autocast("cpu", torch.bfloat16):
        assert (x @ w).dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ w).dtype is torch.bfloat16


def test_a_live_run_carries_them_out() -> None:
    x = torch.full((2, 2), 1.001)
    torch.compile(lambda y: y, backend="eager")(x)

    def product() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return x @ x

    assert plain(product).dtype is torch.bfloat16
    assert plain(product, Intervention("autocast-off", "candidate")).dtype is torch.float32
    assert plain(lambda: x @ x, Intervention("autocast-on", "the program", "float16")).dtype is torch.float16
