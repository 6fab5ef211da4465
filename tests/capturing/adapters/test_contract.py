"""Both adapters keep the contract, and a source of recorded data only needs no more than a trace."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whydiff
from whydiff import registry
from whydiff.capturing import adapters
from whydiff.capturing.adapters import Adapter, Executor, Recorded, RecordedSum, Role, Run, Session, contract
from whydiff.capturing.sink import Sink
from whydiff.capturing.store import TraceWriter, open_trace, save
from whydiff.errors import UnsupportedError
from whydiff.numbers.fingerprint import fingerprint_bytes, fingerprint_reference
from whydiff.records import Call, Environment, Event, Leaf, ObserverCheck, Payload, RecordedTrace, Site, TensorSpec

FRAMEWORKS = ("torch", "jax")
DTYPES = {
    "torch": (
        *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"),
        *("int64", "int32", "int16", "int8", "uint8", "bool"),
    ),
    "jax": (
        *("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"),
        *("int32", "int16", "int8", "uint8", "uint32", "bool"),
    ),
}
RNG = np.random.default_rng(0)


def adapter_of(framework: str) -> Adapter:
    pytest.importorskip(framework)
    found = adapters.for_framework(framework)
    assert isinstance(found, Adapter)
    return found


def program(x: Any) -> Any:
    """Two ops on one argument."""
    return (x + x) * x


def captured(framework: str) -> tuple[Adapter, Run, Any]:
    adapter = adapter_of(framework)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    if framework == "torch":
        import torch

        x: Any = torch.from_numpy(values)
    else:
        import jax.numpy as jnp

        x = jnp.asarray(values)
    run = adapter.run(program, (x,), {})
    return adapter, run, run.capture()


# ---------------------------------------------------------------------------------- declared


def public(base: type) -> dict[str, Any]:
    return {name: f for name, f in inspect.getmembers(base, inspect.isfunction) if not name.startswith("_")}


def check_signatures(base: type, ours: type) -> None:
    """Every method can be called as the base declares it, with the declared names."""
    for name, declared in public(base).items():
        wanted = inspect.signature(declared).parameters
        given = inspect.signature(getattr(ours, name)).parameters
        static = isinstance(inspect.getattr_static(ours, name), staticmethod)
        for parameter in [*wanted.values()][static:]:
            if parameter.kind is not parameter.VAR_KEYWORD:
                assert parameter.name in given, f"{ours.__qualname__}.{name} has no {parameter.name}"
                same = given[parameter.name]
                assert (same.kind, same.default) == (parameter.kind, parameter.default), f"{name}({parameter.name})"
        required = [p.name for p in given.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        assert set(required) <= set(wanted), f"{ours.__qualname__}.{name} asks for more: {required}"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_method_stands_as_declared(framework: str) -> None:
    adapter, run, trace = captured(framework)
    with adapter.executor(trace).running():
        pass
    made = [(Adapter, adapter), (Run, run), (Executor, adapter.executor(trace)), (Session, adapter.session())]
    made.append((Executor, adapter.executor(trace, lift=whydiff.records.Lift("float64"))))
    for base, part in made:
        assert isinstance(part, base)
        check_signatures(base, type(part))


def test_the_check_of_signatures_fails_where_one_is_broken() -> None:
    class Bent(Recorded):
        def roles(self, op: str, more: int) -> frozenset[Role]:  # type: ignore[override]
            return frozenset()

    with pytest.raises(AssertionError, match="asks for more"):
        check_signatures(Recorded, Bent)
    assert registry.Contract(base=Recorded).broken(Bent("bent"), "bent")


@pytest.mark.parametrize("base", [Adapter, Run, Executor, Session, RecordedSum, Sink])
def test_what_an_implementation_must_give_cannot_be_left_out(base: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Lacking", (base,), {})()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_unsupported_abilities_say_so(framework: str) -> None:
    adapter, run, trace = captured(framework)
    call = next(call for call in trace.calls if call.kind == "compute")
    executor = adapter.executor(trace)
    reads = [executor.read(event) for event in call.reads]
    assert isinstance(adapter.kernels(executor, call, reads), (list, tuple))
    assert adapter.recorded_sum(executor, call, reads) is None  # a sum of two is none whose terms can be chosen
    assert adapter.replayable(trace) == ""
    assert "module level" in adapter.replayable(replace(trace, level="module"))
    if framework == "jax":
        for asked in (
            lambda: adapter.laid_out(reads, "transposed"),
            lambda: adapter.checkpoint(Path("model.pt")),
            lambda: adapter.evaluate(abs, reads, "float32", 1.0, "cpu"),
            run.audit,
        ):
            with pytest.raises(UnsupportedError):
                asked()
        assert adapter.audit(trace) is None
    else:
        audit = adapter.audit(trace)
        assert audit is not None and len(audit.sites) == 2


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_goes_to_a_sink_whether_it_can_do_so_step_by_step_or_not(framework: str, tmp_path: Path) -> None:
    _, run, trace = captured(framework)
    with TraceWriter(tmp_path / "t", framework=framework, level="op") as writer:
        writer.close(**run.record(writer))
    stored = open_trace(tmp_path / "t")
    assert [call.target for call in stored.calls] == [call.target for call in trace.calls]
    assert stored.observer.deterministic and stored.observer.unchanged
    assert stored.handles == {} and adapters.replayable(stored) == ""


# ---------------------------------------------------------------------------------- values


@pytest.mark.parametrize(("framework", "dtype"), [(f, dtype) for f in FRAMEWORKS for dtype in DTYPES[f]])
def test_fingerprints_and_payloads_are_those_of_the_reference_definition(framework: str, dtype: str) -> None:
    adapter, _, trace = captured(framework)
    executor = adapter.executor(trace)
    width = 1 if dtype == "bool" else np.dtype(_native(dtype)).itemsize
    octets = RNG.integers(0, 2 if dtype == "bool" else 256, 35 * width, dtype=np.uint8)
    bits = octets.view(_native(dtype)).reshape(5, 7)
    value = executor.adopt_foreign(Payload(bits, dtype))
    back = executor.payload(value)
    assert (back.dtype, back.bits.tobytes()) == (dtype, bits.tobytes())
    copy = executor.copy(value)
    assert executor.same(copy, value) and copy is not value
    if framework == "torch":
        seen = adapter.run(lambda x: x.reshape(7, 5), (value,), {}).capture()
    else:
        import jax.numpy as jnp

        seen = adapter.run(lambda x: jnp.reshape(x, (7, 5)), (jnp.asarray(value),), {}).capture()
    (leaf,) = (leaf for leaf in seen.leaves if leaf.role == "input")
    assert leaf.fingerprint is not None and leaf.fingerprint.lanes == fingerprint_reference(bits)


def _native(dtype: str) -> str:
    return {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}.get(dtype, dtype)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_put_leaves_the_value_alone(framework: str) -> None:
    adapter, _, trace = captured(framework)
    executor = adapter.executor(trace)
    value = executor.leaf_value(next(leaf for leaf in trace.leaves if leaf.role == "input"))
    changed = executor.put(value, (slice(None), 1), executor.adopt_foreign(Payload(np.zeros(2, np.float32), "float32")))
    assert executor.payload(changed).bits.tolist() == [[0, 0, 2], [3, 0, 5]]
    assert executor.payload(value).bits.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_exchanged_calls_are_those_that_are_executed(framework: str) -> None:
    adapter, _, trace = captured(framework)
    product = next(call for call in trace.calls if call.site.op == "mul")
    other = replace(product, reads=(product.reads[1], product.reads[1]))
    executor = adapter.executor(trace, exchanged={product.index: other})
    with executor.running():
        for call in executor.trace.calls:
            assert executor.execute(call) == ""
            if call.kind == "return":
                (event,) = call.reads
                assert executor.payload(executor.read(event)).bits.tolist() == [[0, 1, 4], [9, 16, 25]]
    assert trace.calls[product.index] == product


# ---------------------------------------------------------------------------------- roles


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_tables_name_roles_and_places_that_are_asked_for(framework: str) -> None:
    adapter = adapter_of(framework)
    for role, names in adapter.operators.items():
        assert len(set(names)) == len(names)
        assert all(role in adapter.roles(name) for name in names)
    assert adapter.roles("no such operator") == frozenset() and adapter.places("no such operator") == {}
    for name in adapter.operators.get(Role.PRODUCT, ()):
        assert {"left", "right"} <= set(adapter.places(name))
    for name in adapter.operators.get(Role.NORM, ()):
        assert {"over", "weight", "eps"} <= set(adapter.places(name))
    assert Role.CAST in adapter.roles("copy") and adapters.plays(framework, "sin", Role.ANGLE)


# ---------------------------------------------------------------------------------- recorded data only


def engine_log(last: float) -> RecordedTrace:
    """What another tool recorded: two operators, their values, nothing that could be run."""
    values = [np.arange(4, dtype=np.float32), np.arange(4, dtype=np.float32) * 2]
    values.append(np.where(np.arange(4) == 3, np.float32(last), values[1] + 1).astype(np.float32))
    spec = TensorSpec((4,), "float32")

    def event(site: Site, slot: str, number: int) -> Event:
        bits = fingerprint_bytes(values[number])
        return Event(site.at(slot), spec, number, number - 1, bits, payload=f"value/{number}")

    calls = []
    for index, op in enumerate(("twice", "shifted")):
        site = Site("engine", op)
        reads, writes = (event(site, "read.0", index),), (event(site, "output", index + 1),)
        calls.append(Call(index, site, f"engine.{op}", "compute", reads, writes, arguments=[[{"$read": 0}], {}]))
    end = Site("", "return")
    calls.append(Call(2, end, "return", "return", (event(end, "output", 2),)))
    leaf = Leaf(0, "input", "tokens", spec, fingerprint_bytes(values[0]), "value/0")
    return RecordedTrace(
        framework="engine",
        level="op",
        calls=tuple(calls),
        leaves=(leaf,),
        environment=Environment(),
        observer=ObserverCheck(None, None),
        payloads={f"value/{number}": Payload(value, "float32") for number, value in enumerate(values)},
    )


def test_recorded_data_is_compared_without_a_run_or_an_executor(tmp_path: Path) -> None:
    for name, last in (("a", 7.0), ("b", 7.0), ("c", 9.0)):
        save(engine_log(last), tmp_path / name)
    same = whydiff.compare(tmp_path / "a", tmp_path / "b")
    assert same.verdict.value == "identical"
    other = whydiff.compare(tmp_path / "a", tmp_path / "c")
    assert other.verdict.value != "identical"
    assert [str(origin.site) for origin in other.origins] == ["engine:shifted#0"]
    assert any("recorded data only" in note for note in other.notes)


def test_what_recorded_data_cannot_do_says_so() -> None:
    source = adapters.for_framework("engine")
    assert type(source) is Recorded and source.name == "engine"
    assert source.roles("twice") == frozenset() and source.places("twice") == {}
    assert not source.owns(abs, ()) and source.environment() == Environment() and source.audit(engine_log(7)) is None
    assert "recorded data only" in source.replayable(engine_log(7))
    with source.under({"anything": True}):
        pass
    for asked in (
        lambda: source.run(abs, (), {}),
        lambda: source.executor(engine_log(7)),
        lambda: source.session(),
        lambda: source.to_payload(1),
        lambda: source.remedy("upcast", ("twice",)),
        lambda: source.laid_out(1, "transposed"),
        lambda: source.checkpoint(Path("x")),
        lambda: source.evaluate(abs, (), "float32", 1.0, "cpu"),
    ):
        with pytest.raises(UnsupportedError, match="engine"):
            asked()
    assert contract.Recorded is Recorded
