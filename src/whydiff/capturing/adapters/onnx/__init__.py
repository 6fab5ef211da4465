"""ONNX files on ONNX Runtime; this file imports neither, so that it can be asked without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whydiff.capturing.adapters.contract import Adapter, Session
from whydiff.capturing.adapters.onnx.choices import choices_of
from whydiff.capturing.adapters.onnx.model import OnnxModel
from whydiff.capturing.adapters.onnx.roles import NAMES, PLACES
from whydiff.capturing.adapters.onnx.windows import pooling_of, resampling_of, window_of
from whydiff.records import Environment, Payload

if TYPE_CHECKING:
    from whydiff.capturing.adapters.onnx.executor import Executor
    from whydiff.capturing.adapters.onnx.run import Run


class OnnxAdapter(Adapter):
    """See `whydiff.capturing.adapters.contract`."""

    name = "onnx"
    operators = NAMES
    arguments = PLACES

    window = staticmethod(window_of)
    pooling = staticmethod(pooling_of)
    choices = staticmethod(choices_of)
    resampling = staticmethod(resampling_of)

    def owns(self, target: object, args: Sequence[Any]) -> bool:
        """Whether a target is an opened ONNX file."""
        return isinstance(target, OnnxModel)

    def program(self, path: Path) -> OnnxModel:
        """A model that an ``.onnx`` file holds."""
        return OnnxModel(path)

    def run(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """A live run of an opened file."""
        from whydiff.capturing.adapters.onnx.run import Run

        return Run(target, args)

    def replayer(self) -> type[Executor]:
        """A replay of a live run, node by node."""
        from whydiff.capturing.adapters.onnx.executor import Executor

        return Executor

    def session(self, **options: Any) -> Session:
        """Refused: a session of ONNX Runtime is captured by its file.

        Raises:
            UnsupportedError: always.
        """
        raise self._cannot("capture a block")

    def environment(self) -> Environment:
        """Versions now."""
        from whydiff.capturing.adapters.onnx.run import environment

        return environment()

    def to_payload(self, value: Any) -> Payload:
        """A host array's bits."""
        from whydiff.capturing.adapters.onnx.values import to_payload

        return to_payload(value)


REGISTER = OnnxAdapter()
