"""The places of a change, on a graph made by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
from tests.corpus.exports.places import allowed, path, starts


def chain() -> Any:
    """first (a weight) → a factor → between (a rectifier) → last (a weight) → after."""
    node, float_ = onnx.helper.make_node, onnx.TensorProto.FLOAT
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="/first/MatMul"),
        node("Mul", ["a", "factor"], ["b"], name="/Mul"),
        node("LeakyRelu", ["b"], ["c"], name="/between/LeakyRelu", alpha=0.1),
        node("MatMul", ["c", "v"], ["d"], name="/blocks/blocks.0/last/MatMul"),
        node("Softmax", ["d"], ["y"], name="/after/Softmax", axis=-1),
    ]
    held = {"w": np.ones((2, 2), np.float32), "v": np.ones((2, 2), np.float32), "factor": np.float32(2)}
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    x, y = (onnx.helper.make_tensor_value_info(name, float_, [2, 2]) for name in ("x", "y"))
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y], tensors))


def changed(number: int, **attributes: Any) -> Any:
    model = copy.deepcopy(chain())
    del model.graph.node[number].attribute[:]
    model.graph.node[number].attribute.extend(onnx.helper.make_attribute(*item) for item in attributes.items())
    return model


def test_a_change_shows_up_to_the_next_weight() -> None:
    assert allowed(chain(), changed(2, alpha=0.2)) == {"between", "blocks.0.last"}
    assert allowed(chain(), changed(4, axis=0)) == {"after", ""}
    assert allowed(chain(), chain()) == set() and not starts(chain(), chain())
    factor = chain()
    factor.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.asarray(np.float32(3)), "factor"))
    assert allowed(chain(), factor) == {"", "between", "blocks.0.last"}
    assert [node.name for node in starts(chain(), factor)] == ["/Mul"]


def test_a_mask_is_no_weight() -> None:
    def masked(model: Any) -> Any:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "mask"))
        model.graph.node[2].CopyFrom(onnx.helper.make_node("Add", ["b", "mask"], ["c"], name="/between/Add"))
        return model

    factor = masked(chain())
    factor.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.asarray(np.float32(3)), "factor"))
    assert allowed(masked(chain()), factor) == {"", "between", "blocks.0.last"}


def test_both_exporters_names_are_module_paths() -> None:
    node = onnx.helper.make_node("Add", ["a"], ["b"], name="node_add")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'blocks', 'blocks.0', 'add']")
    assert path(node) == "blocks.0"
    assert path(onnx.helper.make_node("Add", ["a"], ["b"], name="/blocks/blocks.0/blocks.0.one/Add")) == "blocks.0.one"
    assert path(onnx.helper.make_node("Add", ["a"], ["b"], name="/Add")) == ""
