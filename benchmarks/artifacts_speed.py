"""Two trees of files larger than memory: memory and speed of ``whydiff artifacts`` beside a plain read.

    python -m benchmarks.artifacts_speed -o FOLDER [--gib 8]

Makes two trees of ``--gib`` GiB each (safetensors in 1 GiB files; one element in 97 differs by 1e-6),
reads both once (4 MiB at a time, page cache dropped before), then compares them (dropped again) and prints
the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import psutil

import whydiff
from whydiff.numbers.metrics import implementation

_MIB = 1 << 20


def write(tree: Path, gib: int, delta: float) -> None:
    """Files of 1 GiB, one float32 tensor each."""
    tree.mkdir(parents=True)
    block = np.random.default_rng(0).standard_normal(16 * _MIB // 4).astype(np.float32)
    block[::97] += np.float32(delta)
    head = json.dumps({"x": {"dtype": "F32", "shape": [1 << 28], "data_offsets": [0, 1 << 30]}}).encode()
    head += b" " * (-len(head) % 8)
    for number in range(gib):
        with open(tree / f"{number}.safetensors", "wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for _ in range(64):
                file.write(block.tobytes())


def forget(trees: list[Path]) -> None:
    """Drop the trees from the page cache."""
    for path in (p for tree in trees for p in tree.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(trees: list[Path]) -> float:
    """Bytes per second of a plain sequential read of both trees."""
    room, done, began = bytearray(4 * _MIB), 0, time.perf_counter()
    for path in (p for tree in trees for p in sorted(tree.iterdir())):
        with open(path, "rb", buffering=0) as file:
            while got := file.readinto(room):
                done += got
    return done / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--gib", type=int, default=8)
    options = parser.parse_args()
    trees = [options.output / name for name in ("reference", "candidate")]
    for tree, delta in zip(trees, (0.0, 1e-6), strict=True):
        write(tree, options.gib, delta)
    implementation()  # compiled before the clock starts
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], psutil.Process().memory_info().rss)

    try:
        for _ in range(2):
            forget(trees)
            plain = read(trees)
            forget(trees)
            watcher = threading.Thread(target=watch)
            watcher.start()
            began, busy = time.perf_counter(), time.process_time()
            found = whydiff.compare_artifacts(*trees)
            seconds, busy = time.perf_counter() - began, time.process_time() - busy
            stop.set()
            watcher.join()
            stop.clear()
            speed = found.bytes_read / seconds
            print(
                f"{options.gib} GiB trees, {found.status}: read {plain / _MIB:.0f} MiB/s, compare {speed / _MIB:.0f} "
                f"MiB/s, ratio {speed / plain:.2f}, {busy:.0f} s of processor in {seconds:.0f} s, "
                f"peak memory {peak[0] / _MIB:.0f} MiB, load {os.getloadavg()[0]:.1f}"
            )
    finally:
        for tree in trees:
            shutil.rmtree(tree)


if __name__ == "__main__":
    main()
