"""On one CUDA device: fingerprints, the comparison of two tensors, and what a capture costs beside its peers.

    PYTHONPATH=src:. python -m benchmarks.gpu_capture            # everything, about two minutes
    PYTHONPATH=src:. python -m benchmarks.gpu_capture capture    # only: fingerprints | comparison | capture

Ratios are medians of paired runs, to the plain run of the same call. Nothing is asserted: this is a measurement.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from whydiff.capturing.adapters.torch.device import queue
from whydiff.capturing.adapters.torch.session import Session

SHAPES = {  # width, inner width, layers, heads, key heads, vocabulary, tokens
    "135M": (576, 1536, 30, 9, 3, 49152, 3),
    "1B": (2048, 8192, 16, 32, 8, 32000, 8192),
    "8B-wide, 4 layers": (4096, 14336, 4, 32, 8, 32000, 8192),
}
GIB = 1 << 30


def llama(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> torch.nn.Module:
    """A Llama of given shape with random weights."""
    import transformers

    width, inner, layers, heads, key_heads, vocabulary = shape[:6]
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=16384,
    )
    with torch.device(device):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).to(dtype).eval()


def timed(run: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


# ------------------------------------------------------------------------------------------ fingerprints


def fingerprints() -> None:
    """Bytes a second, against reading the same memory, and what noting one tensor costs the host."""
    import triton
    import triton.language as tl

    @triton.jit
    def read(memory, results, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
        at = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
        tl.store(results + tl.program_id(0) % 64, tl.sum(tl.load(memory + at)))

    whole = torch.randint(-(2**31), 2**31 - 1, (GIB // 4,), dtype=torch.int32, device="cuda")
    sums = torch.zeros(64, dtype=torch.int32, device="cuda")

    def hashed(pieces: int) -> Callable[[], Any]:
        line, size = queue.Queue(), GIB // pieces

        def run() -> None:
            for piece in range(pieces):
                line.add(whole, piece * size, (piece + 1) * size)
            line.flush()

        return run

    limit = triton.testing.do_bench(lambda: read[(GIB // 4 // 16384,)](whole, sums, WIDTH=16384, num_warps=8))
    print(f"read limit: {GIB / limit / 1e6:.0f} GB/s")
    for pieces in (1, 32, 1024):
        ms = triton.testing.do_bench(hashed(pieces), return_mode="median")
        print(f"fingerprint of 1 GiB in {pieces} tensors: {GIB / ms / 1e6:.0f} GB/s, {limit / ms:.0%} of it")
    line, small = queue.Queue(), torch.zeros(1000, device="cuda")
    begin = time.perf_counter()
    for _ in range(50_000):
        line.add(small, 0, 4000)
    print(f"noting a tensor, launches included: {(time.perf_counter() - begin) / 50_000 * 1e6:.1f} us on the host")
    line.settle()


def comparison() -> None:
    """All statistics of two tensors of 1 GiB, beside one read of both."""
    from whydiff.capturing.adapters.torch.comparing import measured

    for dtype in (torch.bfloat16, torch.float32):
        one = torch.randn(GIB // dtype.itemsize, device="cuda").to(dtype)
        other = one * 1.001

        def both(one: torch.Tensor = one, other: torch.Tensor = other) -> Any:
            return measured(one, other)

        both()
        seconds = statistics.median(timed(both) for _ in range(7))
        alike = statistics.median(timed(lambda one=one: torch.equal(one, one.clone())) for _ in range(7))
        print(f"two tensors of 1 GiB, {dtype}: {1e3 * seconds:.2f} ms (torch.equal of a copy: {1e3 * alike:.2f} ms)")


# ------------------------------------------------------------------------------------------ capture


class Nothing(TorchDispatchMode):
    """What any dispatch mode costs."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Hashed(TorchDispatchMode):
    """`torch.hash_tensor` of every output, one number each, read at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel():
            self.found.append(torch.hash_tensor(result))
        return result

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        if self.found:
            torch.stack([item.long() for item in self.found]).cpu()


@contextmanager
def hooks(model: torch.nn.Module) -> Iterator[None]:
    """Every module's output copied to the host, as a debugging script does it."""
    kept: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            kept.append(output.cpu())

    handles = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def debug_mode() -> Iterator[None]:
    """PyTorch's own: a hash of every output, of kind ``hash_tensor``."""
    from torch.utils._debug_mode import DebugMode

    with DebugMode(), DebugMode.log_tensor_hashes(hash_fn="hash_tensor"):
        yield


def ratios(plain: Callable[[], Any], seen: Callable[[], Any], pairs: int) -> tuple[float, float]:
    """Median ratio, and median seconds of the plain run."""
    found, alone = [], []
    for number in range(pairs + 1):
        one, other = timed(plain), timed(seen)
        if number:
            found.append(other / one)
            alone.append(one)
    return statistics.median(found), statistics.median(alone)


def capture() -> None:
    """The table of captures, peers beside them."""
    for name, shape in SHAPES.items():
        model = llama(shape)
        ids = torch.randint(0, 32000, (1, shape[-1]), device="cuda")
        calls = 0

        def plain(model: Any = model, ids: Any = ids) -> Any:
            return model(ids).logits.shape

        def captured(plain: Any = plain) -> None:
            nonlocal calls
            with Session() as session:
                plain()
            calls = len(session.calls)

        def under(context: Callable[[], Any], plain: Any = plain) -> Callable[[], None]:
            def watched() -> None:
                with context():
                    plain()

            return watched

        captured()
        peak = []
        for run in (plain, captured):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            run()
            peak.append(torch.cuda.max_memory_allocated())
        ratio, seconds = ratios(plain, captured, 7)
        extra = (peak[1] - peak[0]) / 2**20
        print(
            f"{name}, {shape[-1]} tokens, {calls} calls, plain {1e3 * seconds:.1f} ms: x {ratio:.2f}, {extra:.0f} MiB more"
        )
        peers = {
            "a dispatch mode that does nothing": Nothing,
            "hash_tensor of every output": Hashed,
            "DebugMode with hash_tensor": debug_mode,
            "hooks with .cpu()": lambda model=model: hooks(model),
        }
        for peer, context in peers.items():
            try:
                print(f"    {peer}: x {ratios(plain, under(context), 3)[0]:.2f}", flush=True)
            except (RuntimeError, AttributeError, ImportError, TypeError) as error:
                print(f"    {peer}: {type(error).__name__}: {str(error).splitlines()[0][:80]}")
        del model


def main() -> None:
    """Print the tables that were asked for."""
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}")
    chosen = sys.argv[1:] or ["fingerprints", "comparison", "capture"]
    with torch.no_grad():
        if "fingerprints" in chosen:
            fingerprints()
        if "comparison" in chosen:
            comparison()
        if "capture" in chosen:
            capture()


if __name__ == "__main__":
    main()
