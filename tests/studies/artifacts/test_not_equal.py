"""What was not read on both sides, or is another value in other bytes, is never called identical."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from whydiff import compare_artifacts

Pair = tuple[Path, Path]


@pytest.fixture
def pair(tmp_path: Path) -> Callable[[str], Pair]:
    def named(name: str) -> Pair:
        for side in "ab":
            (tmp_path / side).mkdir()
        return tmp_path / "a" / name, tmp_path / "b" / name

    return named


def _gguf(path: Path, tokens: list[str], array: Any, kind: Any = None) -> None:
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_tensor("w", array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LONG = [f"token{n:08d}" for n in range(6000)]


@pytest.mark.parametrize("texts", [(LONG, [*LONG[:-1], "another"]), (["a\nb", "c"], ["a", "b\nc"])])
def test_every_text_of_a_list_counts(texts: tuple[list[str], list[str]], pair: Callable[[str], Pair]) -> None:
    both = pair("x.gguf")
    for path, tokens in zip(both, texts, strict=True):
        _gguf(path, tokens, np.zeros((1, 32), np.float32))
    assert compare_artifacts(*both).status == "differs"


def test_equal_values_in_another_kind_of_block_differ_as_another_dtype_does(pair: Callable[[str], Pair]) -> None:
    from gguf import GGMLQuantizationType as Kind
    from gguf import quants

    packed = quants.quantize(np.full((1, 32), 127, np.float32), Kind.Q8_0)
    both = pair("x.gguf")
    _gguf(both[0], ["a"], packed, Kind.Q8_0)
    _gguf(both[1], ["a"], quants.dequantize(packed, Kind.Q8_0))
    found = compare_artifacts(*both)
    assert found.status == "differs" and "dtypes" in found.files[0].items[0].reason


@pytest.mark.parametrize("kind", ["external", "link"])
def test_equal_bytes_of_hdf5_settle_nothing_of_another_file(kind: str, pair: Callable[[str], Pair]) -> None:
    import h5py

    both = pair("x.h5")
    for path, value in zip(both, (1, 2), strict=True):
        (path.parent / "raw.bin").write_bytes(np.full(4, value, np.float32).tobytes())
        with h5py.File(path, "w") as file:
            file["y"] = np.ones(3)
            if kind == "link":
                file["x"] = h5py.ExternalLink("other.h5", "x")
            else:
                file.create_dataset("x", (4,), "f4", external=[("raw.bin", 0, 16)])
    assert both[0].read_bytes() == both[1].read_bytes()
    assert compare_artifacts(*both).status == "differs"


def _onnx(outputs: str = "yz", body: str = "Abs", *, external: bool = False) -> bytes:
    from onnx import TensorProto, helper

    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xyz"}
    nodes = [helper.make_node("F", ["x"], ["y"], domain="own"), helper.make_node("Neg", ["x"], ["z"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", ["a"], ["b"], [helper.make_node(body, ["a"], ["b"])], opsets[:1])
    graph = helper.make_graph(nodes, "g", [values["x"]], [values[name] for name in outputs])
    if external:
        tensor = TensorProto(name="e", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="not-there.data")
        graph.initializer.append(tensor)
    data: bytes = helper.make_model(graph, functions=[function], opset_imports=opsets).SerializeToString()
    return data


@pytest.mark.parametrize("other", [{"outputs": "zy"}, {"outputs": "y"}, {"body": "Neg"}])
def test_outputs_and_functions_of_onnx_count(other: dict[str, Any], pair: Callable[[str], Pair]) -> None:
    both = pair("x.onnx")
    both[0].write_bytes(_onnx())
    both[1].write_bytes(_onnx(**other))
    assert compare_artifacts(*both).status == "differs"


def test_equal_bytes_of_onnx_settle_nothing_of_data_that_is_not_there(pair: Callable[[str], Pair]) -> None:
    both = pair("x.onnx")
    for path in both:
        path.write_bytes(_onnx(external=True))
    assert compare_artifacts(*both).status == "differs"


@pytest.mark.parametrize("values", [(b"x", "x"), ({}, "{}"), (msgpack.ExtType(2, b"\x92\x01\x02"), "(1+2j)")])
def test_another_type_of_value_differs(values: tuple[Any, Any], pair: Callable[[str], Pair]) -> None:
    both = pair("x.msgpack")
    for path, value in zip(both, values, strict=True):
        path.write_bytes(msgpack.packb({"a": value}))
    assert compare_artifacts(*both).status == "differs"


def test_an_empty_list_is_no_text(pair: Callable[[str], Pair]) -> None:
    both = pair("x.json")
    for path, text in zip(both, ('{"a": []}', '{"a": "[]"}'), strict=True):
        path.write_text(text)
    assert compare_artifacts(*both).status == "differs"


def test_nothing_compared_is_no_agreement(tmp_path: Path) -> None:
    for side in "ab":
        (tmp_path / side).mkdir()
    assert compare_artifacts(tmp_path / "a", tmp_path / "b").status == "not compared"


def _texts(both: Pair, *texts: str) -> tuple[str, str, str]:
    for path, text in zip(both, texts, strict=True):
        path.write_text(text)
    found = compare_artifacts(*both)
    return found.status, found.reason, " ".join(item.reason for file in found.files for item in file.items)


@pytest.mark.parametrize(
    ("ours", "theirs", "status"),
    [
        ('{"eps": 1e-5}', '{"eps": 1e-6}', "differs"),
        ('{"beta": 0.999}', '{"beta": 0.9995}', "differs"),
        ('{"theta": 500000.0}', '{"theta": 499990.0}', "differs"),
        ('{"loss": 0.123456789}', '{"loss": 0.123456788}', "within tolerance"),
        ('{"loss": 1.23456789e-7}', '{"loss": 1.3e-7}', "differs"),
        ('{"x": -0.0}', '{"x": 0.0}', "within tolerance"),
        ('{"x": NaN}', '{"x":  NaN}', "identical"),
        ('{"a": 1, "a": 2}', '{"a": 3, "a": 2}', "differs"),
        ('{"f": [1, 1.5]}', '{"f": [1.0, 1.5]}', "identical"),
    ],
)
def test_a_number_that_stands_alone_is_judged_by_itself(
    ours: str, theirs: str, status: str, pair: Callable[[str], Pair]
) -> None:
    assert _texts(pair("config.json"), ours, theirs)[0] == status


def test_a_lone_number_of_another_type_is_not_said_to_differ_in_value(pair: Callable[[str], Pair]) -> None:
    status, _, why = _texts(pair("config.json"), '{"eps": 1}', '{"eps": 1.0}')
    assert status == "differs" and why == "the values are equal, int and float are not"


@pytest.mark.parametrize(
    ("ours", "theirs", "status"),
    [
        ("zip,v\n007,1\n008,2\n", "zip,v\n7,1\n8,2\n", "differs"),
        ("h,v\n18446744073709551610,1\n2,2\n", "h,v\n18446744073709551611,1\n2,2\n", "differs"),
        ("a,v\n1, 2\n", "a,v\n1,2\n", "identical"),
        ("a,v\n1,2.50\n", "a,v\n1,2.5\n", "identical"),
    ],
)
def test_a_field_that_is_no_number_stays_a_text(
    ours: str, theirs: str, status: str, pair: Callable[[str], Pair]
) -> None:
    found, reason, _ = _texts(pair("x.csv"), ours, theirs)
    assert found == status and (status == "differs" or reason == "no value differs in 1 files")


def test_rows_in_another_order_are_told(pair: Callable[[str], Pair]) -> None:
    both = pair("x.csv")
    assert _texts(both, "id,v\n1,1\n2,2\n", "id,v\n2,2\n1,1\n")[:2] == ("identical", "no value differs in 1 files")
    assert "the order of rows" in {count.what for count in compare_artifacts(*both).not_compared}


def test_a_conjugate_that_was_saved_lazily_is_no_equal(pair: Callable[[str], Pair]) -> None:
    import torch

    both, value = pair("x.pt"), torch.complex(torch.ones(4), torch.arange(1.0, 5.0))
    torch.save({"w": value.conj(), "v": value.clone().conj().imag}, both[0])
    torch.save({"w": value, "v": value.imag.clone()}, both[1])
    assert compare_artifacts(*both).status == "differs"
    torch.save({"w": value.conj().resolve_conj(), "v": -value.imag}, both[1])
    assert compare_artifacts(*both).status == "identical"
