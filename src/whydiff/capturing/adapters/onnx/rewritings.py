"""ONNX Runtime's rewritings of a graph, level by level, each of which can be left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whydiff.capturing.adapters._live import called
from whydiff.capturing.adapters._outputs import outputs_of
from whydiff.capturing.adapters.contract import Compiled, Part, Rung, Way
from whydiff.capturing.adapters.onnx.model import OnnxModel, returned
from whydiff.capturing.adapters.onnx.values import READER
from whydiff.errors import TargetError

_PASSES: dict[str, tuple[tuple[str, str], ...]] = {
    "basic": (
        ("MatMulAddFusion", "a product and a sum become one Gemm"),
        ("ConstantFolding", "what depends on constants only is computed beforehand"),
        ("ConvBNFusion", "a batch norm is folded into the convolution's weights"),
        ("ConvMulFusion", "a factor is folded into the convolution's weights"),
        ("ConvAddFusion", "a sum is folded into the convolution's bias"),
        ("MatMulBNFusion", "a batch norm is folded into the product's weights"),
        ("GemmSumFusion", "a sum becomes a Gemm's third operand"),
        ("GeluFusionL1", "the ops of a GELU become one"),
        ("LayerNormFusionL1", "the ops of a layer norm become one"),
        ("CommonSubexpressionElimination", "what is computed twice is computed once"),
    ),
    "extended": (
        ("GeluFusionL2", "the ops of a GELU become one"),
        ("LayerNormFusionL2", "the ops of a layer norm become one"),
        ("SimplifiedLayerNormFusion", "the ops of an RMS norm become one"),
        ("SkipLayerNormFusion", "a residual sum and a layer norm become one op"),
        ("BiasGeluFusion", "a bias and a GELU become one op"),
        ("FastGeluFusion", "the ops of a tanh GELU become one"),
        ("QuickGeluFusion", "the ops of a quick GELU become one"),
        ("BiasSoftmaxFusion", "a mask and a softmax become one op"),
        ("MatMulScaleFusion", "a factor is folded into a product"),
        ("MatmulTransposeFusion", "a transposition is folded into a product"),
        ("GemmActivationFusion", "a product and an activation become one op"),
        ("ConvActivationFusion", "a convolution and an activation become one op"),
        ("ConvAddActivationFusion", "a convolution, a sum and an activation become one op"),
        ("AttentionFusion", "the ops of an attention become one"),
        ("EmbedLayerNormFusion", "embeddings and a layer norm become one op"),
        ("DynamicQuantizeMatMulFusion", "a dynamically quantised product becomes one op"),
        ("MatMulIntegerToFloatFusion", "an integer product and its scale become one op"),
        ("MatMulNBitsFusion", "a product of narrow weights becomes one op"),
    ),
    "all": (
        ("NchwcTransformer", "convolutions take another memory layout"),
        ("NhwcTransformer", "convolutions take another memory layout"),
        ("ConvAddActivationFusion", "a convolution, a sum and an activation become one op"),
        ("TransposeOptimizer", "transpositions are moved"),
    ),
}
"""Level → its rewritings by name, and what each does (``onnxruntime/core/optimizer/graph_transformer_utils.cc``)."""
_SAYS = {
    "basic": "the graph is rewritten without fusing across kinds of ops",
    "extended": "ops are fused",
    "all": "memory layouts are changed",
}


def rungs() -> tuple[Rung, ...]:
    """The levels from the second lowest on; the lowest, at which nothing is rewritten, is the uncompiled program."""
    return tuple(
        Rung(name=level, adds=says, parts=tuple(Part(name=name, says=text) for name, text in _PASSES[level]))
        for level, says in _SAYS.items()
    )


def compiled_as(model: OnnxModel, feeds: Mapping[str, Any], way: Way) -> Compiled:
    """What a file gives back at another level, some rewritings left out."""
    level = way.rung if way.rung in _SAYS else "none"
    try:
        outputs = called(model.run, (feeds, level), {"without": way.without})
    except TargetError as error:
        return Compiled(None, failed=error.actual)
    return Compiled(outputs_of(returned(outputs), READER))
