"""The common pipeline on JAX programs: planted defects, benign pairs, disk and live, interventions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import whydiff
from whydiff.capturing.adapters import for_framework
from whydiff.capturing.adapters.jax.arguments import primitive
from whydiff.pipeline import Options, compare
from whydiff.records import Diagnosis, Intervention, Verdict

spec = importlib.util.spec_from_file_location("jax_models", __file__.replace("test_compare", "models"))
assert spec is not None and spec.loader is not None
models = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = models  # dataclasses look their module up
spec.loader.exec_module(models)


def test_the_same_program_is_identical() -> None:
    assert compare(models.transformer(), models.transformer()).verdict is Verdict.IDENTICAL


def test_another_eps_is_semantic_at_the_norm() -> None:
    diagnosis = compare(models.transformer(), models.transformer(eps=1e-3))
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert {(o.kind, o.site.op) for o in diagnosis.origins} == {("arguments", "add")}
    assert len(diagnosis.origins) == models.LAYERS
    assert all("norm" in origin.site.scope for origin in diagnosis.origins)
    assert diagnosis.accounted
    assert [(cause.code, cause.status) for cause in diagnosis.causes] == [("FO002", "confirmed")]


def test_a_rounded_rotary_table_is_found_and_proven() -> None:
    diagnosis = compare(models.transformer(), models.transformer(round_table=True))
    assert diagnosis.verdict is Verdict.PRECISION
    confirmed = [cause for cause in diagnosis.causes if cause.status == "confirmed"]
    assert [cause.code for cause in confirmed] == ["ST003"]
    assert "params.rotary.angles" in str(confirmed[0])
    assert confirmed[0].experiments[0].method == "rerun"
    assert confirmed[0].experiments[0].after == 0


def test_a_swapped_head_layout_is_semantic_in_the_attention() -> None:
    diagnosis = compare(models.transformer(), models.transformer(heads_last=True))
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert all("attention" in origin.site.scope for origin in diagnosis.origins)
    assert [(cause.code, cause.status) for cause in diagnosis.causes] == [("FO004", "located")], diagnosis.causes
    assert len(diagnosis.origins) == 3 * models.LAYERS == len(diagnosis.causes[0].interventions)


def test_an_equinox_modules_eps_can_be_put_back() -> None:
    pytest.importorskip("equinox")
    run: Any = for_framework("jax").run(models.equinox_model(eps=1e-2), (models.tokens(),), {})
    reference: Any = for_framework("jax").run(models.equinox_model(), (models.tokens(),), {})
    changes = [Intervention("set-scalar", f"layers.{n}.norm.eps", 1e-5) for n in range(2)]
    assert all(run.supports(change) for change in changes)
    wanted = np.asarray(reference.plain()[0][1])
    assert not np.array_equal(run.plain()[0][1], wanted)
    assert np.array_equal(run.plain(changes)[0][1], wanted)
    assert not np.array_equal(run.plain()[0][1], wanted)


def batched(rows: int) -> Any:
    w = jax.random.normal(jax.random.key(0), (2048, 64))
    x = jax.random.normal(jax.random.key(1), (32, 2048))[:rows]
    product = jax.jit(lambda x: jnp.tanh(x @ w))
    return lambda: product(x)


def test_a_row_alone_and_in_a_batch_is_rounding_at_the_product() -> None:
    diagnosis = compare(batched(1), batched(32))
    if diagnosis.verdict is Verdict.IDENTICAL:
        pytest.skip("this backend's kernels do not depend on the batch here")
    assert diagnosis.verdict is Verdict.ROUNDING
    assert {origin.site.op for origin in diagnosis.origins} == {"dot_general"}


def test_live_and_disk_give_the_same_diagnosis(tmp_path: Path) -> None:
    sides = {"a": models.transformer(), "b": models.transformer(eps=1e-3)}
    for name, target in sides.items():
        with whydiff.capture(tmp_path / name, framework="jax") as session:
            session.run(target)
    live = compare(*sides.values())
    disk = compare(tmp_path / "a", tmp_path / "b")
    mixed = compare(tmp_path / "a", sides["b"])
    assert [_core(d) for d in (disk, mixed)] == [_core(live)] * 2


@pytest.mark.parametrize("name", ["add", "multiply", "min", "max"])
def test_scattered_updates_are_executed_again_from_disk(name: str, tmp_path: Path) -> None:
    x, at = jnp.linspace(-1.0, 1.0, 8), jnp.array([1, 1, 5])

    def program(scale: float) -> Any:
        return lambda: jnp.tanh(getattr((x * scale).at[at], name)(jnp.array([0.5, 1.5, -2.0])))

    sides = {"a": program(1.0), "b": program(1.25)}
    for path, target in sides.items():
        with whydiff.capture(tmp_path / path, framework="jax") as session:
            session.run(target)
    live, disk = compare(*sides.values()), compare(tmp_path / "a", tmp_path / "b")
    assert _core(disk) == _core(live) and live.verdict is Verdict.SEMANTIC
    assert not [count for count in disk.not_compared if count.code == "not replayed"]


def _core(diagnosis: Diagnosis) -> Any:
    return (
        diagnosis.verdict,
        [(str(o.site), o.kind) for o in diagnosis.origins],
        diagnosis.outputs,
        diagnosis.growth,
        diagnosis.accounted,
    )


@pytest.mark.parametrize(
    "intervention",
    [
        Intervention("set-flag", "dispatch", "op by op"),
        Intervention("set-flag", "xla_allow_excess_precision", False),
        Intervention("set-flag", "jax_default_matmul_precision", "highest"),
    ],
)
def test_flags_can_be_set_for_one_run(intervention: Intervention) -> None:
    run: Any = for_framework("jax").run(models.transformer(), (), {})
    before = np.asarray(run.plain()[0][1])
    assert run.supports(intervention)
    changed = np.asarray(run.plain([intervention])[0][1])
    np.testing.assert_allclose(changed, before, rtol=1e-4, atol=1e-5)
    assert np.array_equal(run.plain()[0][1], before)
    assert jax.config.jax_default_matmul_precision is None


def test_fused_bfloat16_differs_from_op_by_op_only_by_excess_precision() -> None:
    x = jax.random.normal(jax.random.key(0), (64, 64)).astype(jnp.bfloat16)
    run: Any = for_framework("jax").run(jax.jit(lambda x: jax.nn.softmax(x) * x), (x,), {})
    alone = run.plain([Intervention("set-flag", "dispatch", "op by op")])[0][1]
    fused = run.plain()[0][1]
    exact = run.plain([Intervention("set-flag", "xla_allow_excess_precision", False)])[0][1]
    assert not np.array_equal(fused, alone)
    assert np.array_equal(exact, alone)


def test_activations_can_be_carried_in_a_wider_dtype() -> None:
    w = jax.random.normal(jax.random.key(0), (64, 64)).astype(jnp.bfloat16)
    x = jnp.ones((4, 64), jnp.bfloat16)
    run: Any = for_framework("jax").run(jax.jit(lambda x: jnp.tanh(x @ w) @ w), (x,), {})
    wide = run.plain([Intervention("set-activation-dtype", "float32")])[0][1]
    assert wide.dtype == jnp.float32
    expected = np.tanh(np.asarray(x, np.float64) @ np.asarray(w, np.float64)) @ np.asarray(w, np.float64)
    np.testing.assert_allclose(np.asarray(wide), expected, rtol=1e-5, atol=1e-5)


def test_other_levels_are_refused_with_a_designed_error() -> None:
    with pytest.raises(whydiff.UsageError, match="equation by equation"):
        compare(batched(1), batched(1), options=Options(level="module"))


def test_a_target_that_raises_names_the_users_line() -> None:
    def broken(x: jax.Array) -> jax.Array:
        raise ValueError("no such thing")

    with pytest.raises(whydiff.TargetError, match=r"test_compare\.py"):
        compare(broken, broken, jnp.ones(2))


def test_a_function_that_was_traced_before_keeps_its_old_value_and_is_judged_by_it() -> None:
    """A context of our own would have the program's functions traced again, and hide that one of them is stale."""

    class Settings:
        scale = 1.0

    weight, x = jnp.sin(jnp.arange(64.0)).reshape(8, 8), jnp.cos(jnp.arange(40.0)).reshape(5, 8)

    def scaled(x: Any) -> Any:
        return jnp.tanh(x @ weight) * Settings.scale

    fast = jax.jit(scaled)
    fast(x)
    Settings.scale = 1.5
    before = fast(x).tobytes()
    assert compare(lambda: scaled(x), lambda: fast(x)).verdict is Verdict.SEMANTIC
    assert fast(x).tobytes() == before


def test_keys_that_jax_cannot_sort_stay_apart() -> None:
    x = jnp.arange(6.0)

    def run(shift: float) -> Any:
        return {0: x * 2, "0": [x + shift]}

    assert compare(lambda: run(1.0), lambda: run(1.0)).verdict is Verdict.IDENTICAL
    found = compare(lambda: run(1.0), lambda: run(1.5))
    assert [(slot, one.status) for slot, one in found.outputs] == [("[0]", "agrees"), ("0[0]", "differs")]


@pytest.mark.parametrize("name", ["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"])
def test_running_totals_are_primitives_that_a_trace_on_disk_may_name(name: str) -> None:
    assert primitive(name).name == name


def test_the_epsilon_of_a_flax_norm_is_an_epsilon() -> None:
    nn = pytest.importorskip("flax.linen")
    x = 0.02 * jnp.sin(jnp.arange(60.0)).reshape(5, 12)
    norms = [nn.RMSNorm(epsilon=eps) for eps in (1e-6, 1e-4)]
    state = norms[0].init(jax.random.key(0), x)
    found = compare(lambda: norms[0].apply(state, x) @ x.T, lambda: norms[1].apply(state, x) @ x.T)
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO002", "confirmed")]


def test_digits_that_no_output_misses_make_nothing_unstable() -> None:
    """A complex product and its cosines: parts that are paired crosswise lose all their digits, the outputs none."""
    x = jnp.sin(jnp.arange(96.0)).reshape(12, 8) @ jnp.cos(jnp.arange(64.0)).reshape(8, 8)
    angles = jnp.outer(jnp.arange(12.0), 300.0 ** (-jnp.arange(0, 8, 2) / 8))
    even, odd = x[:, ::2], x[:, 1::2]

    def complexly() -> Any:
        turned = (even + 1j * odd) * jnp.exp(-1j * angles)
        return turned.real, turned.imag

    def plainly() -> Any:
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        return even * cos + odd * sin, odd * cos - even * sin

    for one, other in ((complexly, plainly), (plainly, complexly)):
        assert compare(one, other).verdict in (Verdict.ROUNDING, Verdict.IDENTICAL)


def test_bits_that_a_compiled_program_keeps_beyond_a_narrow_dtype_are_precision() -> None:
    x = jnp.sin(jnp.arange(512.0)).reshape(8, 64) * 3

    def run(x: Any) -> Any:
        h = x.astype(jnp.bfloat16)
        h = jnp.tanh(h) * h
        return h.astype(jnp.float32) @ x.T

    found = compare(lambda: run(x), lambda: jax.jit(run)(x))
    if found.verdict is not Verdict.IDENTICAL:  # a compiler that keeps every rounding
        assert found.verdict is Verdict.PRECISION
        assert [(c.code, c.status) for c in found.causes] == [("CP001", "located")]
    scaled = compare(lambda: run(x), lambda: jax.jit(lambda x: run(x) * 1.01)(x))
    assert scaled.verdict is Verdict.SEMANTIC
