"""How fast are the fingerprint and the one-pass comparison on this machine?

    python -m benchmarks.compare_speed              # everything, about a minute
    python -m benchmarks.compare_speed --mib 16     # smaller tensors

Prints the best of several runs (other work on the machine only makes runs slower) and ratios, which carry
over to other machines better than seconds do. Nothing is asserted: this is a measurement, not a test.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from whydiff.capturing.store.safetensors_file import SafetensorsFile
from whydiff.numbers import fingerprint as fp
from whydiff.numbers import metrics
from whydiff.numbers.kernels import threads
from whydiff.records import Payload


def best(function: Callable[[], Any], runs: int) -> float:
    """Seconds of the fastest of several runs, after one that is not counted."""
    function()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def cfunc_candidate(array: np.ndarray[Any, Any]) -> Callable[[], Any]:
    """The same kernel behind a C function pointer called through ctypes."""
    import numba

    from whydiff.numbers.fingerprint import _kernel

    kernel = _kernel.ml2
    signature = numba.types.void(*[numba.types.uint64] * 7, numba.types.CPointer(numba.types.uint64))

    @numba.cfunc(signature)
    def pointer(address, nbytes, first, last, m, s0, s1, out):  # type: ignore[no-untyped-def]
        out[0], out[1] = kernel(address, nbytes, first, last, m, s0, s1)

    call = ctypes.CFUNCTYPE(None, *[ctypes.c_uint64] * 7, ctypes.POINTER(ctypes.c_uint64))(pointer.address)
    out = (ctypes.c_uint64 * 2)()
    chunks = -(-array.nbytes // (4 * fp.ML2_CHUNK))
    address = array.__array_interface__["data"][0]

    def run() -> tuple[int, int]:
        call(address, array.nbytes, 0, chunks, *fp._constants, out)
        return out[0], out[1]

    assert run() == fp.fingerprint_bytes(array).lanes
    return run


def torch_candidate(array: np.ndarray[Any, Any]) -> Callable[[], Any]:
    """The same sums in eager torch ops (inner level of one lane, doubled)."""
    words = torch.from_numpy(array.view(np.int32)).view(-1, fp.ML2_CHUNK)
    multipliers = torch.from_numpy(fp.keys(1)[0].view(np.int64).copy())
    return lambda: [((words.to(torch.int64) & 0xFFFFFFFF) * m).sum(1) for m in multipliers]


def fingerprints(mib: int) -> None:
    """Throughput of every candidate, and the cost of one call on a tiny tensor."""
    array = np.random.default_rng(0).standard_normal(mib << 18, dtype=np.float32)
    address = array.__array_interface__["data"][0]
    candidates: list[tuple[str, Callable[[], Any], int]] = [
        ("read limit (numpy sum of int64)", lambda: array.view(np.int64).sum(), 7),
        ("numba njit, 1 thread", lambda: fp.fingerprint_address(address, array.nbytes, threads=1), 7),
        ("numba cfunc through ctypes, 1 thread", cfunc_candidate(array), 7),
        (f"numba njit, {threads.usable_threads()} threads (default)", lambda: fp.fingerprint_bytes(array), 7),
        ("numpy definition", lambda: fp.fingerprint_reference(array), 2),
        ("eager torch ops", torch_candidate(array), 2),
        ("zlib.crc32, for scale", lambda: zlib.crc32(array), 3),
    ]
    print(f"\nFingerprint of {mib} MiB float32")
    for name, function, runs in candidates:
        seconds = best(function, runs)
        print(f"  {name:44} {seconds * 1e3:8.1f} ms {array.nbytes / seconds / 1e9:7.2f} GB/s")
    print("\nOne call on a small tensor")
    for nbytes in (0, 64, 4096, 1 << 16):
        piece = array[: nbytes // 4]

        def repeat(nbytes: int = nbytes) -> None:
            for _ in range(1000):
                fp.fingerprint_address(address, nbytes)

        through_ctypes = cfunc_candidate(piece)

        def call(run: Callable[[], Any] = through_ctypes) -> None:
            for _ in range(1000):
                run()

        print(f"  {nbytes:6} bytes: njit {best(repeat, 5) * 1e3:6.2f} us, cfunc {best(call, 5) * 1e3:6.2f} us")
    print("\nThreads pay from")
    for size in (1, 2, 4, 8, 16, 64):
        nbytes = min(size << 20, array.nbytes)
        alone, shared = (
            best(lambda nbytes=nbytes, n=n: fp.fingerprint_address(address, nbytes, threads=n), 15) for n in (1, 2)
        )
        print(f"  {nbytes >> 20:4} MiB: 1 thread {alone * 1e6:8.0f} us, 2 threads {shared * 1e6:8.0f} us")


def assert_close(reference: torch.Tensor, candidate: torch.Tensor) -> None:
    """What users do today; its verdict is not of interest here."""
    try:
        torch.testing.assert_close(candidate, reference)
    except AssertionError:
        return


def comparisons(mib: int) -> None:
    """One pass against ``torch.testing.assert_close``: in memory, and from two files on disk."""
    rng = np.random.default_rng(1)
    a = rng.standard_normal(mib << 18, dtype=np.float32)
    rounded = a * (1 + np.float32(1e-7) * rng.standard_normal(a.size, dtype=np.float32))
    pairs = {
        "equal": a.copy(),
        "rounding (all within tolerance)": rounded,
        "1e-3 off (most over it)": a * np.float32(1.001),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, b in pairs.items():
            print(f"\nCompare 2 x {mib} MiB float32: {name}")
            files = [Path(folder) / side for side in ("reference", "candidate")]
            for file, array in zip(files, (a, b), strict=True):
                save_file({"x": array}, file)
            tensors = torch.from_numpy(a), torch.from_numpy(b)
            payloads = Payload(a, "float32"), Payload(b, "float32")

            def theirs_from_files(files: list[Path] = files) -> None:
                with safe_open(files[0], "pt") as r, safe_open(files[1], "pt") as c:
                    assert_close(r.get_tensor("x"), c.get_tensor("x"))

            def ours_from_files(files: list[Path] = files) -> metrics.Statistics:
                x, y = (SafetensorsFile(file).array("x") for file in files)
                return metrics.measure(Payload(x, "float32"), Payload(y, "float32"), 1.3e-6, 1e-5)

            rows = [
                ("arrays", lambda p=payloads: metrics.measure(*p, 1.3e-6, 1e-5), lambda t=tensors: assert_close(*t)),
                ("safetensors files", ours_from_files, theirs_from_files),
            ]
            for where, ours, theirs in rows:
                mine, other = best(ours, 15), best(theirs, 5)
                print(
                    f"  from {where:18} one pass {mine * 1e3:7.1f} ms, assert_close {other * 1e3:7.1f} ms,"
                    f" ratio {other / mine:5.1f}"
                )


def main() -> None:
    """Parse the command line and print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=64, help="size of each tensor (default: 64)")
    mib = parser.parse_args().mib
    print(f"fingerprint: {fp.implementation()}, metrics: {metrics.implementation()}")
    print(f"{threads.usable_threads()} threads; torch {torch.__version__} with {torch.get_num_threads()}")
    fingerprints(mib)
    comparisons(mib)


if __name__ == "__main__":
    main()
