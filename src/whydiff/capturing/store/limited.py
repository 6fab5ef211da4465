"""A trace whose full tensors must fit into a number of bytes."""

from __future__ import annotations

from typing import Any

from whydiff.capturing.store.writer import TraceWriter
from whydiff.errors import CaptureError
from whydiff.records import Payload


class LimitedWriter(TraceWriter):
    """A `TraceWriter` that refuses full tensors beyond a limit.

    Args:
        path, options: as for `TraceWriter`.
        most: bytes; None: no limit.

    Attributes:
        taken: bytes of full tensors so far.
    """

    def __init__(self, path: Any, *, most: int | None, **options: Any) -> None:
        super().__init__(path, **options)
        self._most, self.taken = most, 0

    def add_payload(self, key: str, payload: Payload) -> bool:
        """Add a full tensor.

        Raises:
            CaptureError: it would exceed the limit, or as `TraceWriter.add_payload`.
        """
        self.taken += payload.bits.nbytes
        if self._most is not None and self.taken > self._most:
            raise CaptureError(
                "The full tensors of this run do not fit into the limit.",
                where=key,
                actual=f"{self.taken} bytes so far",
                expected=f"at most {self._most} bytes (--max-bytes)",
                next_step="Raise --max-bytes, or compare a smaller input.",
            )
        return super().add_payload(key, payload)
