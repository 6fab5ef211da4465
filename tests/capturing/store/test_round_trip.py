"""What is written is what is opened: records, values and every bit of a payload."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whydiff.capturing.store import TraceWriter, open_trace, save
from whydiff.capturing.store.check import check_references
from whydiff.errors import CaptureError, TraceFormatError, UsageError, harmless
from whydiff.records import (
    Call,
    Environment,
    Event,
    Fingerprint,
    Hole,
    Kind,
    Leaf,
    LeafRole,
    ObserverCheck,
    Payload,
    Phase,
    RecordedTrace,
    Site,
    TensorSpec,
)

FIELDS = (
    "framework",
    "level",
    "calls",
    "environment",
    "observer",
    "ties",
    "scalars",
    "config",
    "contexts",
    "complete",
    "note",
)

counts = st.integers(0, 2**63 - 1)
small = st.integers(0, 50)
text = st.text(max_size=8).map(lambda drawn: harmless(drawn, one_line=True))
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.complex_numbers() | text
keys = st.sampled_from(["$read", "$float", "$complex", "$tuple", "$dict"]) | text
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=2)
    ),
    max_leaves=8,
)
maybe = st.none() | st.booleans()
fingerprints = st.none() | st.builds(
    Fingerprint,
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    counts,
    st.sampled_from(["content", "span"]),
)


@st.composite
def specs(draw: st.DrawFn) -> TensorSpec:
    shape = tuple(draw(st.lists(counts, max_size=3)))
    strides = tuple(draw(st.lists(st.integers(-5, 2**40), min_size=len(shape), max_size=len(shape))))
    dtype = draw(st.sampled_from(["float32", "bfloat16"]))
    return TensorSpec(shape, dtype, draw(text), draw(st.just(()) | st.just(strides)), draw(counts))


def sites(slot: st.SearchStrategy[str]) -> st.SearchStrategy[Site]:
    return st.builds(Site, text, text, st.sampled_from(get_args(Phase)), small, small, small, slot)


@st.composite
def traces(draw: st.DrawFn) -> RecordedTrace:
    leaves = draw(
        st.lists(
            st.builds(
                Leaf, st.integers(-1, 5), st.sampled_from(get_args(LeafRole)), text, specs(), fingerprints, text, text
            ),
            max_size=3,
        )
    )
    contexts = draw(st.lists(st.dictionaries(text, values, max_size=2), min_size=1, max_size=3))
    known = sorted({-1} | {leaf.storage for leaf in leaves})
    calls = []
    for index in range(draw(st.integers(0, 4))):
        home = draw(sites(st.just("")))

        def event(storage: int, producer: int, home: Site = home) -> Event:
            site = draw(st.builds(home.at, text) | sites(text))
            return Event(site, draw(specs()), storage, producer, draw(fingerprints), draw(text), draw(text))

        reads = tuple(
            event(draw(st.sampled_from(known)), draw(st.integers(-1, index - 1)))
            for _ in range(draw(st.integers(0, 2)))
        )
        written = draw(st.lists(st.integers(-1, 9), max_size=2))
        writes = tuple(event(storage, draw(st.integers(-1, index))) for storage in written)
        known = sorted({*known, *written})
        mutates = tuple(draw(st.lists(st.integers(0, len(reads) - 1), max_size=2))) if reads else ()
        calls.append(
            Call(
                index,
                home,
                draw(text),
                draw(st.sampled_from(get_args(Kind))),
                reads,
                writes,
                draw(values),
                mutates,
                draw(st.integers(0, len(contexts) - 1)),
                draw(text),
                draw(text),
            )
        )
    names = st.dictionaries(text, text, max_size=2)
    return RecordedTrace(
        draw(text),
        draw(text),
        tuple(calls),
        tuple(leaves),
        Environment(draw(names), draw(names), draw(st.dictionaries(text, values, max_size=2)), draw(names)),
        ObserverCheck(draw(maybe), draw(maybe), draw(small), draw(text)),
        tuple(map(tuple, draw(st.lists(st.lists(text, max_size=2), max_size=2)))),
        draw(st.dictionaries(text, values, max_size=3)),
        draw(st.dictionaries(text, values, max_size=3)),
        tuple(contexts),
        draw(st.booleans()),
        draw(text),
    )


@given(traces())
@settings(max_examples=40)
def test_every_record_survives(trace: RecordedTrace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(trace, folder)
        opened = open_trace(folder)
    leaves = tuple(  # a key whose tensor was not kept names nothing
        leaf if trace.payload(leaf.payload) is not None else replace(leaf, payload="") for leaf in trace.leaves
    )
    assert repr(opened.leaves) == repr(leaves)
    for name in FIELDS:
        # repr tells 0.0 from -0.0, True from 1, tuples from lists, and NaN equals itself.
        assert repr(getattr(opened, name)) == repr(getattr(trace, name)), name


PLAIN = [
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]
BITS = [("bfloat16", "uint16"), ("float8_e4m3fn", "uint8"), ("float8_e5m2", "uint8"), ("complex32", "uint32")]


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    dtype, stored = draw(st.sampled_from([(name, name) for name in PLAIN] + BITS))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    raw = draw(hnp.arrays(np.uint8, (*shape, np.dtype(stored).itemsize)))
    bits = raw.view(stored).reshape(shape) if stored != "bool" else (raw & 1).astype(bool).reshape(shape)
    if draw(st.booleans()):
        bits = np.asfortranarray(bits)
    if draw(st.booleans()):
        bits = bits.astype(bits.dtype.newbyteorder(">"))
    return Payload(bits, dtype)


@given(st.dictionaries(st.text("abc./[]0", min_size=1), payloads(), max_size=5), st.integers(1, 200))
@settings(max_examples=60)
def test_every_bit_of_a_payload_survives(tensors: dict[str, Payload], shard_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with TraceWriter(folder, framework="torch", level="op", shard_bytes=shard_bytes) as writer:
            for key, tensor in tensors.items():
                writer.add_payload(key, tensor)
        opened = open_trace(folder)
        assert list(opened.payloads) == list(opened.payloads.keys()) == list(tensors)
        for key, tensor in tensors.items():
            back = opened.payload(key)
            assert back is not None and back.dtype == tensor.dtype
            assert back.bits.flags.c_contiguous and back.bits.shape == tensor.bits.shape
            assert back.bits.dtype == tensor.bits.dtype.newbyteorder("<")
            expected = np.array(tensor.bits, tensor.bits.dtype.newbyteorder("<"), order="C")
            assert back.bits.tobytes() == expected.tobytes()


def test_signalling_nan_bits_survive(tmp_path: Path) -> None:
    bits = np.array([0x7FA00001, 0xFF800001, 0x80000000], np.uint32).view(np.float32)
    with TraceWriter(tmp_path, framework="torch", level="op") as writer:
        writer.add_payload("nan", Payload(bits, "float32"))
    back = open_trace(tmp_path).payload("nan")
    assert back is not None and back.bits.tobytes() == bits.tobytes()


def test_payloads_are_mapped_not_copied(saved: Path) -> None:
    back = open_trace(saved).payload("leaf")
    assert back is not None and not back.bits.flags.writeable and not back.bits.flags.owndata


def test_an_unknown_payload_is_none(saved: Path) -> None:
    assert open_trace(saved).payload("nothing") is None


def test_a_payload_may_change_after_it_was_added(tmp_path: Path) -> None:
    bits = np.ones(3, np.float32)
    with TraceWriter(tmp_path, framework="torch", level="op") as writer:
        writer.add_payload("x", Payload(bits, "float32"))
        bits[:] = 2
    back = open_trace(tmp_path).payload("x")
    assert back is not None and back.bits.tolist() == [1, 1, 1]


def test_a_large_payload_that_was_interrupted_is_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = np.ones(100, np.float32)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with TraceWriter(tmp_path, framework="torch", level="op", shard_bytes=100, tolerant=True) as writer:
        writer.add_payload("before", Payload(np.zeros(3, np.float32), "float32"))
        writer.end_step()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("whydiff.capturing.store.writer.os.replace", interrupted)
            writer.add_payload("lost", Payload(bits, "float32"))
        bits[:] = 2  # the program goes on, or gives the memory back
        writer.add_payload("kept", Payload(bits, "float32"))
    trace = open_trace(tmp_path)
    assert sorted(trace.payloads) == ["before", "kept"]
    kept = trace.payload("kept")
    assert kept is not None and set(kept.bits.tolist()) == {2}


def test_what_is_left_out_beyond_the_budget_is_counted_whoever_gives_it(tmp_path: Path) -> None:
    for name in ("closed", "raised"):
        with (
            contextlib.suppress(RuntimeError),
            TraceWriter(tmp_path / name, framework="torch", level="op", max_bytes=100) as writer,
        ):
            kept = [writer.add_payload(str(i), Payload(np.zeros(10, np.float32), "float32")) for i in range(5)]
            assert kept == [True, True, False, False, False]
            if name == "raised":
                raise RuntimeError
        hole = Hole("left out", "full tensors beyond the budget on disk", "2", 3)
        assert open_trace(tmp_path / name).holes == (hole,)


def test_shards_are_bounded(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, framework="torch", level="op", shard_bytes=100) as writer:
        for i in range(10):
            writer.add_payload(str(i), Payload(np.full(10, i, np.float32), "float32"))
            assert writer._waiting.nbytes <= 100
    assert len(list(tmp_path.glob("payloads-*.safetensors"))) == 5


def test_payload_functions_are_called_one_at_a_time(recorded: RecordedTrace, tmp_path: Path) -> None:
    alive: list[str] = []

    def make(key: str) -> Callable[[], Payload]:
        def build() -> Payload:
            alive.append(key)
            return Payload(np.zeros(4, np.int64), "int64")

        return build

    trace = RecordedTrace(
        "torch", "op", (), (), Environment(), ObserverCheck(None, None), payloads={k: make(k) for k in "abc"}
    )
    save(trace, tmp_path / "some", payloads=["a", "[c-z]"])
    assert alive == ["a", "c"]
    assert list(open_trace(tmp_path / "some").payloads) == ["a", "c"]
    save(trace, tmp_path / "none", payloads="none")
    assert alive == ["a", "c"] and not open_trace(tmp_path / "none").payloads
    with pytest.raises(UsageError, match="fits no payload"):
        save(trace, tmp_path / "bad", payloads=["a", "nothing*"])
    assert not (tmp_path / "bad").exists()


def test_a_trace_on_disk_can_be_saved_again(saved: Path, tmp_path: Path) -> None:
    first = open_trace(saved)
    save(first, tmp_path / "again")
    for name in ("manifest.json", "events.jsonl", "payloads-00000.safetensors"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    with pytest.raises(UsageError, match="over itself"):
        save(first, saved, overwrite=True)
    assert open_trace(saved).payload("leaf") is not None


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", np.float32(1), [np.int64(1)]])
def test_a_value_that_json_cannot_carry_is_refused(value: Any, tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path, framework="torch", level="op")
    with pytest.raises(CaptureError, match="cannot be written"):
        writer.add_contexts([{"x": value}])
    with pytest.raises(CaptureError, match="cannot be written"):
        writer.close(scalars={"x": value})
    writer.close(scalars={"x": 1})
    assert open_trace(tmp_path).scalars == {"x": 1}


def test_nesting_has_a_limit_and_below_it_survives(tmp_path: Path) -> None:
    def nested(depth: int) -> Any:
        value: Any = float("inf")
        for _ in range(depth):
            value = (value,)
        return value

    with TraceWriter(tmp_path, framework="torch", level="op") as writer:
        with pytest.raises(CaptureError, match="nested too deeply"):
            writer.add_contexts([{"x": nested(40)}])
        depth = max(d for d in range(40) if _fits(writer, nested(d)))
        assert depth >= 20
    assert open_trace(tmp_path).contexts[-1]["x"] == nested(depth)


def _fits(writer: TraceWriter, value: Any) -> bool:
    try:
        writer.add_contexts([{"x": value}])
    except CaptureError:
        return False
    return True


def test_the_writer_refuses_wrong_records(tmp_path: Path, call: Callable[..., Call], payload: Payload) -> None:
    writer = TraceWriter(tmp_path, framework="torch", level="op")
    with pytest.raises(CaptureError, match="index is not its position"):
        writer.add_calls([call(1)])
    wrong = Call(0, Site("", "x"), "x", "compute", context=1)
    with pytest.raises(CaptureError, match="context that was not added"):
        writer.add_calls([wrong])
    writer.add_payload("x", payload)
    for key in ("x", "", "__metadata__", "a\nb"):
        with pytest.raises(CaptureError, match="key cannot be used"):
            writer.add_payload(key, payload)
    for bits, dtype in (
        (np.zeros(2, np.uint16), "float32"),
        (np.zeros(2, np.uint8), "bfloat16"),
        (np.zeros(2, np.float32), "bfloat16"),
        (np.array(["a"]), "str"),
    ):
        with pytest.raises(CaptureError, match="do not have its dtype"):
            writer.add_payload("y", Payload(bits, dtype))
    writer.close()
    with pytest.raises(UsageError, match="closed already"):
        writer.add_leaves([])
    with pytest.raises(UsageError, match="closed already"):
        writer.close()
    assert list(open_trace(tmp_path).payloads) == ["x"]


def test_a_contradictory_trace_is_not_saved(tmp_path: Path) -> None:
    site = Site("", "mm")
    read = Event(site.at("read.0"), TensorSpec((), "float32"), 5)
    trace = RecordedTrace(
        "torch", "op", (Call(0, site, "t", "compute", (read,)),), (), Environment(), ObserverCheck(None, None)
    )
    with pytest.raises(TraceFormatError, match="storage 5, made by nothing"):
        save(trace, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"index": 1}, "its index is 1"),
        ({"context": 1}, "context 1 of 1"),
        ({"context": -1}, "context -1 of 1"),
        ({"reads": 0}, "names producer 0"),
        ({"reads": -2}, "names producer -2"),
        ({"writes": 1}, "names producer 1"),
        ({"writes": -2}, "names producer -2"),
    ],
)
def test_every_contradiction_between_records_is_found(changes: dict[str, Any], found: str) -> None:
    site = Site("", "mm")
    ((field, value),) = changes.items()
    if field in ("reads", "writes"):
        value = (Event(site.at("x"), TensorSpec((), "float32"), -1, value),)
    call = Call(**{"index": 0, "site": site, "target": "t", "kind": "compute", field: value})
    check_references([Call(0, site, "t", "compute")], [], 1, "here")
    with pytest.raises(TraceFormatError, match=found):
        check_references([call], [], 1, "here")


def test_overwrite_deletes_traces_and_nothing_else(saved: Path, recorded: RecordedTrace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="something at the path"):
        save(recorded, saved)
    save(recorded, saved, payloads="none", overwrite=True)
    assert sorted(path.name for path in saved.iterdir()) == ["events.jsonl", "manifest.json"]
    (saved / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="something at the path"):
        save(recorded, saved, overwrite=True)
    assert (saved / "thesis.txt").exists() and open_trace(saved).complete
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        save(recorded, file, overwrite=True)
