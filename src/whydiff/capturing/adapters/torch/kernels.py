"""Which kernel ran: CUDA kernel names from the profiler; on the CPU what oneDNN and MKL say of themselves."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

import torch

from whydiff.capturing.adapters.contract import Executor
from whydiff.records import Call

_ONEDNN = re.compile(r"^onednn_verbose,(?:v1,)?primitive,exec,\w+,(\w+),([^,]+),", re.MULTILINE)
_MKL = re.compile(r"^MKL_VERBOSE (\w+\([^)]*\))", re.MULTILINE)
_POINTERS = re.compile(r",?0x[0-9a-f]+")


def kernels(executor: Executor, call: Call, reads: Sequence[torch.Tensor]) -> list[str]:
    """Names of what ran when a recorded op is executed on given tensors.

    On CUDA: kernel names in launch order. On the CPU: oneDNN primitives with their implementation and MKL calls
    with their sizes; if neither speaks, ``"ATen <op>"`` with the instruction set that ATen chose. ATen has no
    way of telling more (whether a vectorised or a scalar loop ran, for instance).
    """
    if any(read.is_cuda for read in reads):
        return _cuda(executor, call, reads)
    with _spoken() as heard:
        executor.apply(call, reads)
    text = heard()
    found = [f"oneDNN {primitive} {which}" for primitive, which in _ONEDNN.findall(text)]
    found += [f"MKL {_POINTERS.sub('', spoken)}" for spoken in _MKL.findall(text)]
    found = list(dict.fromkeys(found))
    return found or [f"ATen {call.site.op}, {torch.backends.cpu.get_cpu_capability()}"]


def _cuda(executor: Executor, call: Call, reads: Sequence[torch.Tensor]) -> list[str]:
    from torch.profiler import ProfilerActivity, profile

    executor.apply(call, reads)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        executor.apply(call, reads)
        torch.cuda.synchronize()
    on_device = [e for e in profiler.events() if "CUDA" in str(e.device_type)]
    names = [e.name for e in on_device if not e.name.startswith(("Memcpy", "Memset", "Activity Buffer"))]
    return list(dict.fromkeys(names))


@contextmanager
def _spoken() -> Iterator[Any]:
    """What C libraries write to standard output in the block; Python's own output is flushed before."""
    heard: list[str] = []
    flushed: list[TextIO | None] = [sys.stdout, sys.stderr]
    for stream in flushed:
        if stream is not None:
            stream.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            with ExitStack() as stack:
                if torch.backends.mkldnn.is_available():
                    stack.enter_context(torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON))
                if torch.backends.mkl.is_available():
                    stack.enter_context(torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON))
                yield lambda: heard[0]
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            heard.append(file.read().decode("utf-8", "replace"))
