"""Traces at fsspec URLs: memory and local files always, a local S3-compatible server where one is installed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import whydiff
from whydiff.capturing.store.remote import _inside, localized, send
from whydiff.errors import TraceFormatError, UsageError

fsspec = pytest.importorskip("fsspec")
LINEAR = torch.nn.Linear(4, 2)
INPUT = torch.arange(4.0)


def program() -> torch.Tensor:
    with torch.no_grad():
        return LINEAR(INPUT)


@pytest.fixture(params=["memory", "file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield "memory://whydiff-test"
        fsspec.filesystem("memory").store.clear()
    elif request.param == "file":
        yield f"file://{tmp_path}/store"
    else:
        server = pytest.importorskip("moto.server", reason="no S3-compatible server is installed (moto, s3fs)")
        s3fs = pytest.importorskip("s3fs")
        s3fs.S3FileSystem.clear_instance_cache()  # it remembers another test's port
        running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        running.start()
        host, port = running.get_host_and_port()
        patch = pytest.MonkeyPatch()
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ):
            patch.setenv(name, value)
        bucket = f"whydiff-{uuid.uuid4().hex}"
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
        yield f"s3://{bucket}"
        running.stop()
        patch.undo()


def test_a_trace_goes_to_a_url_and_is_compared_from_there(root: str) -> None:
    with whydiff.capture(f"{root}/a.trace"):
        program()
    trace = whydiff.open(f"{root}/a.trace")
    assert trace.source == f"{root}/a.trace" and trace.complete
    diagnosis = whydiff.compare(f"{root}/a.trace", program)
    assert diagnosis.verdict == "identical"
    assert diagnosis.sides[0].source == f"{root}/a.trace"
    with pytest.raises(UsageError, match="something at this URL"), whydiff.capture(f"{root}/a.trace"):
        program()
    with whydiff.capture(f"{root}/a.trace", overwrite=True):
        program()


def test_nothing_at_a_url_is_a_usage_error(root: str) -> None:
    with pytest.raises(UsageError):
        whydiff.open(f"{root}/none.trace")


def test_a_scheme_that_nobody_knows_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="kind of URL"):
        whydiff.open("nosuchscheme://x/y")


@pytest.mark.parametrize("name", ["root/../../etc/passwd", "/etc/passwd", "root/a/../../b", "root"])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(TraceFormatError, match="leads out"):
        _inside(name, "root", "memory://root")


def test_a_plain_path_is_left_alone(tmp_path: Path) -> None:
    with localized(tmp_path) as same:
        assert same == tmp_path
    (tmp_path / "x").write_text("x")
    send(tmp_path, "memory://whydiff-sent")
    with localized("memory://whydiff-sent/x") as file:
        assert file.read_text() == "x"
    fsspec.filesystem("memory").store.clear()
