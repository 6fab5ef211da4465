"""The end of an opened trace: its files are let go of when a comparison is done, without waiting for the collector."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import whydiff
from whydiff.capturing.store import DiskTrace, open_trace
from whydiff.errors import TraceError

PROGRAM = """
import gc, os, sys
import torch, whydiff
from whydiff.pipeline import Options

def held():
    with open("/proc/self/maps") as maps:
        mapped = [line for line in maps if sys.argv[1] in line]
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return mapped + [link for link in links if os.path.lexists(link) and sys.argv[1] in os.readlink(link)]

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU(), torch.nn.LayerNorm(16))
x = torch.randn(4, 16)
for side, gelu in (("reference", "none"), ("candidate", "tanh")):
    model[1] = torch.nn.GELU(gelu)
    with whydiff.capture(f"{sys.argv[1]}/{side}", payloads="all"):
        model(x)
gc.collect()
gc.disable()
places = [f"{sys.argv[1]}/{side}" for side in ("reference", "candidate")]
found = whydiff.compare(*places, options=Options(trust=True))
assert found.verdict == "semantic" and found.origins, found.reason
assert held() == [], held()
found = whydiff.compare(model, places[1], x, options=Options(trust=True))
assert found.verdict == "identical", found.reason
assert held() == [], held()
print("nothing is held")
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process maps is told by Linux")
def test_a_comparison_lets_go_of_its_files_without_the_collector(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "nothing is held\n", done.stderr


@pytest.fixture
def trace(tmp_path: Path) -> DiskTrace:
    with whydiff.capture(tmp_path / "one", payloads="all"):
        torch.nn.Linear(4, 4)(torch.ones(2, 4))
    return open_trace(tmp_path / "one")


def test_arrays_outlive_the_trace(trace: DiskTrace) -> None:
    key = next(iter(trace.payloads))
    with trace:
        payload = trace.payload(key)
        outputs = trace.outputs
        assert payload is not None and outputs
        kept = payload.bits.copy()
    assert np.array_equal(payload.bits, kept)
    bits = outputs[0].payload
    assert bits is not None and bits.bits.shape == (2, 4)


def test_a_closed_trace_says_so(trace: DiskTrace) -> None:
    trace.close()
    trace.close()
    assert trace.calls
    with pytest.raises(TraceError, match="closed"):
        trace.payload(next(iter(trace.payloads)))
