"""What a capture of a JAX program sees, and that seeing changes nothing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from whydiff.capturing.adapters import for_framework, for_target
from whydiff.capturing.adapters._live import equal
from whydiff.capturing.adapters.jax.recorder import Recorder
from whydiff.capturing.adapters.jax.recording import WAYS
from whydiff.capturing.adapters.jax.run import same
from whydiff.capturing.adapters.jax.state import reach
from whydiff.records import RecordedTrace

spec = importlib.util.spec_from_file_location("jax_models", __file__.replace("test_capture", "models"))
assert spec is not None and spec.loader is not None
models = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = models  # dataclasses look their module up
spec.loader.exec_module(models)


def captured(target: Any, *args: Any) -> tuple[RecordedTrace, Any]:
    run = for_framework("jax").run(target, args, {})
    trace: Any = run.capture()
    return trace, run.check(trace)


def scopes(trace: RecordedTrace) -> set[str]:
    return {call.site.scope for call in trace.calls}


def test_whose_a_target_is_can_be_judged_without_importing_jax() -> None:
    code = (
        "import sys, whydiff.capturing.adapters as a; j = a.for_framework('jax');"
        "print(j.owns(lambda: 0, ()), 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_jax_owns_its_own_and_leaves_torch_alone() -> None:
    torch = pytest.importorskip("torch")
    x = jnp.ones(3)
    assert for_target(lambda: x).name == "jax"
    assert for_target(jax.jit(lambda y: y)).name == "jax"
    assert for_target(lambda y: y, (x,)).name == "jax"
    assert for_target(models.equinox_model()).name == "jax"
    linear = torch.nn.Linear(2, 2)
    assert for_target(linear).name == "torch"
    assert for_target(lambda: linear(torch.ones(2))).name == "torch"


@pytest.mark.parametrize("jit", [True, False])
def test_a_scan_shows_every_layer_and_observing_changes_nothing(jit: bool) -> None:
    trace, check = captured(models.transformer(jit=jit))
    assert (check.deterministic, check.unchanged) == (True, True)
    for layer in range(models.LAYERS):
        assert any(f"scan.{layer}" in scope and "attention" in scope for scope in scopes(trace))
        assert any(f"scan.{layer}" in scope and "mlp" in scope for scope in scopes(trace))
    leaves = {leaf.name: leaf.role for leaf in trace.leaves if leaf.storage >= 0}
    assert {"params.layers.q", "params.rotary.angles"} <= set(leaves)
    assert leaves["x"] == "input"
    assert "test_capture" not in {call.source for call in trace.calls}
    assert any("models.py" in call.source for call in trace.calls)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_looking_gives_values_that_are_the_programs(way: Any) -> None:
    run: Any = for_framework("jax").run(models.transformer(), (), {})
    recorder, _, outputs = run.recorded(way)
    assert equal(run.plain(), outputs, same)[0] or way == "op by op"
    made = {event.storage for call in recorder.calls for event in call.writes}
    for call in recorder.calls:
        for event in call.reads:
            assert event.producer == -1 or event.storage in made
    if way == "taps":
        assert all(event.fingerprint is not None for call in recorder.calls for event in call.writes)
    else:
        assert any(event.fingerprint is not None for call in recorder.calls for event in call.writes)


def test_loops_of_unknown_length_and_branches_are_looked_into() -> None:
    @jax.jit
    def program(x: jax.Array) -> jax.Array:
        def outer(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            n, y = carry
            return n + 1, jax.lax.while_loop(lambda z: z.sum() < 100.0, lambda z: z * 2.0, y) * 0.25

        _, x = jax.lax.while_loop(lambda carry: carry[0] < 2, outer, (jnp.int32(0), x))
        return jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)

    trace, check = captured(program, jnp.ones(4))
    assert check.unchanged
    inner = [call for call in trace.calls if call.site.scope.startswith("while.0.while.")]
    doubled = 4.0
    for _ in inner:
        doubled *= 2
    assert doubled >= 100 > doubled / 2
    ops = [call.site.op for call in trace.calls if call.site.scope == "branch.1"]
    assert ops == ["sin"]


def test_phases_of_a_gradient() -> None:
    w = jax.random.normal(jax.random.key(0), (8, 8))

    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        with jax.named_scope("layer"):
            return jnp.tanh(x @ w).sum()

    for target in (jax.jit(jax.grad(loss)), jax.grad(loss)):
        trace, check = captured(target, w, jnp.ones((2, 8)))
        assert check.unchanged
        phases = {(call.site.phase, call.site.op) for call in trace.calls}
        assert ("forward", "dot_general") in phases
        assert ("backward", "dot_general") in phases


def test_vmap_remat_and_custom_rules_are_transparent() -> None:
    w = jax.random.normal(jax.random.key(0), (8, 8))

    @jax.custom_vjp
    def clipped(x: jax.Array) -> jax.Array:
        return jnp.minimum(x, 1.0)

    clipped.defvjp(lambda x: (clipped(x), x), lambda x, g: (jnp.where(x < 1.0, g, 0.0),))

    def row(x: jax.Array) -> jax.Array:
        return jax.checkpoint(lambda y: jax.nn.relu(clipped(w @ y)))(x).sum()

    trace, check = captured(jax.jit(jax.vmap(jax.grad(row))), jnp.ones((3, 8)))
    assert check.unchanged
    assert not {call.site.op for call in trace.calls} & {"jit", "remat2", "checkpoint", "custom_vjp_call"}


def test_random_keys_are_fingerprinted_by_their_data_and_replayed() -> None:
    import whydiff

    def program(seed: int) -> Any:
        return jax.jit(lambda: jax.random.normal(jax.random.fold_in(jax.random.key(seed), 1), (4,)))

    trace, check = captured(program(0))
    assert check.unchanged
    assert any(event.spec.shape == (2,) for call in trace.calls for event in call.writes)
    assert all(event.spec.dtype != "key<fry>" for call in trace.calls for event in call.writes)
    x = jnp.zeros(4)
    same = whydiff.compare(lambda: program(0)() + x, lambda: program(0)() + x)
    assert same.verdict == "identical"
    other = whydiff.compare(lambda: program(0)() + x, lambda: program(1)() + x)
    assert other.verdict == "semantic"


def test_flax_nnx_is_named_by_its_attributes_and_its_state_by_its_paths() -> None:
    pytest.importorskip("flax")
    model = models.nnx_model()
    for target in (model, _nnx_jitted(model)):
        trace, check = captured(target, models.tokens())
        assert check.unchanged, trace.note
        assert {"layers.0.attention.query", "layers.1.up"} <= scopes(trace)
        if target is model:
            roles = {leaf.name: leaf.role for leaf in trace.leaves if leaf.storage >= 0}
    assert any(name.startswith("layers.0.up.kernel") and role == "parameter" for name, role in roles.items())


def _nnx_jitted(model: Any) -> Any:
    from flax import nnx

    graph, state = nnx.split(model)
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    return lambda x: run(state, x)


def test_dropout_of_flax_nnx_starts_from_the_same_state_every_time() -> None:
    pytest.importorskip("flax")
    from flax import nnx

    dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    trace, check = captured(dropout, jnp.ones(64))
    assert (check.deterministic, check.unchanged) == (True, True)
    assert trace.calls[-1].kind == "return"


def test_flax_linen_is_named_by_its_modules() -> None:
    pytest.importorskip("flax")
    model, variables = models.linen_model()
    trace, check = captured(jax.jit(model.apply), variables, models.tokens())
    assert check.unchanged, trace.note
    assert any(scope.endswith("layer_1.attention.query") for scope in scopes(trace)), scopes(trace)
    roles = {leaf.role for leaf in trace.leaves if leaf.name.endswith("up.kernel")}
    assert roles == {"parameter"}


def test_equinox_is_named_by_its_attributes() -> None:
    eqx = pytest.importorskip("equinox")
    model = models.equinox_model()
    for target in (model, eqx.filter_jit(model)):
        trace, check = captured(target, models.tokens())
        assert check.deterministic
        if (
            not check.unchanged
        ):  # some processors' XLA fuses this program otherwise as soon as anything of it is looked at
            assert "the instrumented run differs" in check.note and "less invasive ways that changed" in trace.note
        assert any(scope.startswith("layers.0.attention.query_proj") for scope in scopes(trace)), scopes(trace)
    assert trace.scalars["layers.0.norm.eps"] == 1e-5


def test_host_arrays_are_known_as_the_inputs_that_they_are() -> None:
    trace, _ = captured(jax.jit(lambda ids: jnp.ones((9, 2))[ids]), np.arange(3))
    assert [leaf.role for leaf in trace.leaves if leaf.name == "ids" and leaf.storage >= 0] == ["input"]


def test_two_looks_at_one_host_array_are_one_leaf_unless_it_was_written_in_between() -> None:
    """Without jit JAX makes a new look whenever an array of the host is used."""
    array = np.ones(6, np.float32)
    recorder = Recorder(reach(lambda x: x, (array,), {}))
    first, again, part = (recorder.ref(look) for look in (array[:], array[:], array[:3]))
    assert first is again and first is not part
    array[0] = 5
    assert recorder.ref(array[:]) is not first
    trace, _ = captured(lambda x: jnp.asarray(x) * 2 + jnp.asarray(x), array)
    assert {leaf.name for leaf in trace.leaves if leaf.spec.shape == (6,)} == {"x"}


def test_a_program_that_donates_its_input_can_be_run_again() -> None:
    x = jnp.ones(8)
    trace, check = captured(jax.jit(lambda y: y * 2, donate_argnums=0), x)
    assert check.unchanged
    assert not x.is_deleted()
    assert trace.calls


def test_what_has_its_operands_bytes_is_seen_without_a_tap_of_its_own() -> None:
    def body(carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.copy(carry) * x.reshape(3, 1)[:, 0], jnp.expand_dims(carry, 0)

    @jax.jit
    def program(x: jax.Array) -> jax.Array:
        y = jnp.copy(x * 2).reshape(2, 6)  # whole numbers: no rounding
        last, rows = jax.lax.scan(body, jnp.ones(3), x)
        again = jnp.broadcast_to(jnp.sum(y), (4,)) + jnp.squeeze(jnp.expand_dims(last, 0)).sum()
        return jnp.copy(lax_reversed(y)).sum() + rows.sum() + again

    def lax_reversed(y: jax.Array) -> jax.Array:
        return jax.lax.reshape(y, (12,), dimensions=(1, 0))  # moves elements: other bytes

    x = jnp.arange(12.0).reshape(4, 3)
    seen, apart = (Recorder(reach(program, (x,), {})) for _ in range(2))
    run = for_framework("jax").run(program, (x,), {})
    run.recorded("taps", seen)
    run.recorded("op by op", apart)
    shared = [c for c in seen.calls if c.target in ("jax.copy", "jax.reshape", "jax.squeeze", "jax.broadcast_in_dim")]
    assert len(shared) > 10
    for one, other in zip(seen.calls, apart.calls, strict=True):
        assert one.site == other.site and [e.spec for e in one.writes] == [e.spec for e in other.writes]
        if one in shared:
            assert [e.fingerprint for e in one.writes] == [e.fingerprint for e in other.writes] != [None], one.site
    compiled = next(iter(run.compiled._known.values()))[0]
    assert compiled.out_tree.num_leaves < sum(len(call.writes) for call in seen.calls) - 4
