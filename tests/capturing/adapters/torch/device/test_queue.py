"""Which stream a handle means. What runs on it needs a GPU: ``tests/gpu``."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from whydiff.capturing.adapters.torch.device.queue import stream_at  # noqa: E402


def test_the_default_stream_is_no_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: asked.append(handle) or "external")
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "default")
    device = torch.device("cuda", 0)
    assert (stream_at(0, device), stream_at(12, device), asked) == ("default", "external", [12])
