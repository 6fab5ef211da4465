"""An ``.onnx`` file as a program: opened once, run by ONNX Runtime on the CPU at any level of optimisation.

ONNX Runtime's rewritings of a graph go level by level; each can be left out.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.adapters._live import called
from whydiff.capturing.adapters._outputs import outputs_of
from whydiff.capturing.adapters.contract import Compiled, Part, Rung, Way
from whydiff.capturing.adapters.onnx.values import READER
from whydiff.errors import MissingPackageError, TargetError, UsageError

LEVELS = ("all", "extended", "basic", "none")
"""How much the runtime rewrites a graph before it runs it, as much as it does by default first."""


class OnnxModel:
    """A model that can be called with positional inputs and gives what it returns as numpy arrays.

    Args:
        path: of the file; weights beside it are read too.

    Raises:
        MissingPackageError: onnx or onnxruntime is not installed.
        UsageError: it is no ONNX model.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.graph  # noqa: B018  (opens it)

    @functools.cached_property
    def graph(self) -> Any:
        """The model, its local functions written out."""
        try:
            import onnx
            import onnxruntime  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingPackageError.of(error) from error
        try:
            model = onnx.load(self.path)
            if not model.graph.output:  # an empty file is read without an error
                raise ValueError("a model that gives nothing back")
        except Exception as error:  # protobuf and onnx raise errors of their own kinds
            raise UsageError(
                "This is no ONNX model.",
                where=str(self.path),
                actual=f"{type(error).__name__}: {error}",
                expected="a file that torch.onnx.export or another exporter wrote",
            ) from error
        if not model.functions:
            return model
        from onnx.inliner import inline_local_functions

        return inline_local_functions(model)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what it is given, weights left out."""
        held = {tensor.name for tensor in self.graph.graph.initializer}
        return tuple(one.name for one in self.graph.graph.input if one.name not in held)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives back."""
        return tuple(one.name for one in self.graph.graph.output)

    def feeds(self, args: Sequence[Any]) -> dict[str, Any]:
        """Positional inputs by name, as arrays of the dtypes that the model takes.

        Raises:
            UsageError: another number of inputs.
        """
        if len(args) != len(self.inputs):
            raise UsageError(
                "The ONNX model takes another number of inputs.",
                where=str(self.path),
                actual=str(len(args)),
                expected=f"{len(self.inputs)}: {', '.join(self.inputs)}",
                next_step="give every input of the file, in its order",
            )
        return {name: np.ascontiguousarray(np.asarray(value)) for name, value in zip(self.inputs, args, strict=True)}

    def __call__(self, *args: Any) -> Any:
        """Run it as ONNX Runtime does by default; one output alone is not in a list."""
        return returned(self.run(self.feeds(args)))

    def run(
        self, feeds: Mapping[str, Any], level: str = "all", *, exposed: Sequence[str] = (), without: Sequence[str] = ()
    ) -> list[Any]:
        """What it returns, then the values of ``exposed``.

        Args:
            feeds: by input name.
            level: one of `LEVELS`.
            exposed: values inside that a copy of the model gives back too.
            without: the runtime's rewritings that are left out, by name.
        """
        session = self._session(level, tuple(exposed), tuple(without))
        return list(session.run(None, dict(feeds)))

    def _session(self, level: str, exposed: tuple[str, ...], without: tuple[str, ...]) -> Any:
        import onnx
        import onnxruntime

        model = self.graph
        if exposed:
            model = onnx.ModelProto()
            model.CopyFrom(self.graph)
            model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in exposed)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = {
            "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
            "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
            "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        }[level]
        chosen = {"disabled_optimizers": list(without)} if without else {}
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], **chosen
        )


def returned(outputs: list[Any]) -> Any:
    """What a call gives back: one output alone, several in a list."""
    return outputs[0] if len(outputs) == 1 else outputs


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
