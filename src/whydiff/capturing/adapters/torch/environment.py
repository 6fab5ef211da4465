"""What surrounds a run: versions, hardware, flags, variables and random states."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

import numpy as np
import torch

from whydiff.capturing.adapters._live import cpu_name, installed
from whydiff.capturing.adapters.torch.dtypes import to_payload
from whydiff.errors import ReplayError
from whydiff.records import Environment, Payload

_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "CUDA_VISIBLE_DEVICES",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCHINDUCTOR_EMULATE_PRECISION_CASTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "PYTHONHASHSEED",
    "TORCH_BLAS_PREFER_CUBLASLT",
)


class Flags(NamedTuple):
    """Process-wide switches that can change numbers, read before every op (about a microsecond)."""

    threads: int
    matmul_precision: str
    deterministic: bool
    cudnn_benchmark: bool
    cudnn_deterministic: bool
    cuda_tf32: bool
    cudnn_tf32: bool
    fp16_reduction: Any
    bf16_reduction: Any
    mkldnn: bool
    grad_enabled: bool  # a few kernels ask for it (oneDNN's recurrent layers)
    autocast: str  # dtypes of the autocast region that the op runs in; "" outside (casts are recorded as ops)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: _plain(value) for name, value in self._asdict().items()}


def _plain(value: Any) -> Any:
    """JSON-able; newer torch tells two switches in one pair, (True, True), where older ones say True."""
    if isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


_precision: Callable[[], str] = vars(torch._C).get("_get_float32_matmul_precision", torch.get_float32_matmul_precision)


def _matmul_precision() -> str:
    try:
        return _precision()
    except RuntimeError:  # the program set the precision per backend, which this getter refuses to read
        return "per backend"


def _autocast_region() -> str:
    """Devices and dtypes that autocast is on for; empty: for none.

    Below the dispatcher autocast is always off: it is asked for as the op was called (``csrc/utils/python_dispatch.cpp``).
    """
    depth = next(_DEPTHS)[0]
    if depth <= 1:  # no context is open, as before most ops
        return ""
    with suppress(RuntimeError), _as_called():
        return _autocast_to()
    return _autocast_to()  # not below the dispatcher


_as_called: Any = getattr(torch._C, "_RestorePythonTLSSnapshot", nullcontext)


def _autocast_to() -> str:
    return ", ".join(f"{device} {dtype}" for device in ("cpu", "cuda") if (dtype := _autocast(device)) != "off")


_DEPTHS = zip(iter(torch.autocast_increment_nesting, None), iter(torch.autocast_decrement_nesting, None), strict=False)
"""How deep autocast's contexts are, and one less, for ever: in one step, so that no interrupt leaves it deeper."""
_threads, _deterministic, _grad = torch.get_num_threads, torch._C._get_deterministic_algorithms, torch.is_grad_enabled
_cudnn_benchmark, _cudnn_deterministic = torch._C._get_cudnn_benchmark, torch._C._get_cudnn_deterministic
_cuda_tf32, _cudnn_tf32 = torch._C._get_cublas_allow_tf32, torch._C._get_cudnn_allow_tf32
_fp16_reduction = torch._C._get_cublas_allow_fp16_reduced_precision_reduction
_bf16_reduction = torch._C._get_cublas_allow_bf16_reduced_precision_reduction
_mkldnn = torch._C._get_mkldnn_enabled
_READERS: tuple[Callable[[], Any], ...] = (
    _threads,
    _matmul_precision,
    _deterministic,
    _cudnn_benchmark,
    _cudnn_deterministic,
    _cuda_tf32,
    _cudnn_tf32,
    _fp16_reduction,
    _bf16_reduction,
    _mkldnn,
    _grad,
    _autocast_region,
)
"""In the order of `Flags`."""


def autocast_depth() -> int:
    """How many of autocast's contexts are open."""
    return next(_DEPTHS)[0] - 1


def switches_now() -> tuple[Any, ...]:
    """The switches as they stand, in the order of `Flags`; what is asked before every op, so what can be is asked here."""
    try:
        precision = _precision()
    except RuntimeError:
        precision = _matmul_precision()
    depth = next(_DEPTHS)[0]
    return (
        _threads(),
        precision,
        _deterministic(),
        _cudnn_benchmark(),
        _cudnn_deterministic(),
        _cuda_tf32(),
        _cudnn_tf32(),
        _fp16_reduction(),
        _bf16_reduction(),
        _mkldnn(),
        _grad(),
        "" if depth <= 1 else _autocast_region(),
    )


def flags_now() -> Flags:
    """The switches as they stand, by name."""
    return Flags._make(switches_now())


_SETTERS: dict[str, Any] = {
    "threads": torch.set_num_threads,
    "matmul_precision": torch.set_float32_matmul_precision,
    "deterministic": torch.use_deterministic_algorithms,
    "cudnn_benchmark": torch._C._set_cudnn_benchmark,
    "cudnn_deterministic": torch._C._set_cudnn_deterministic,
    "cuda_tf32": torch._C._set_cublas_allow_tf32,
    "cudnn_tf32": torch._C._set_cudnn_allow_tf32,
    "mkldnn": torch._C._set_mkldnn_enabled,
    "grad_enabled": torch._C._set_grad_enabled,
}


MOST_THREADS = 1024
"""OpenMP ends the process where it cannot start as many threads as it is told to."""
_PRECISIONS = ("highest", "high", "medium")


def set_flag(name: str, value: Any) -> bool:
    """Set one switch by its name in `Flags`; False if it cannot be set here.

    Raises:
        ReplayError: a value that the switch cannot have.
    """
    setter = _SETTERS.get(name)
    if setter is None or value == "per backend":
        return False
    if not _can_be(name, value):
        raise ReplayError("A switch cannot be set so.", where=name, actual=f"{value!r:.60}")
    setter(value)
    return True


def _can_be(name: str, value: Any) -> bool:
    if name == "threads":
        return type(value) is int and 1 <= value <= MOST_THREADS
    return value in _PRECISIONS if name == "matmul_precision" else type(value) is bool


_SETTABLE: dict[str, Callable[[], Any]] = {
    name: read for name, read in zip(Flags._fields, _READERS, strict=True) if name in _SETTERS
}


def settable_now() -> dict[str, Any]:
    """Those switches that can be set here, by their names in `Flags`; the others take long to read inside of autocast."""
    return {name: read() for name, read in _SETTABLE.items()}


def apply_flags(flags: Mapping[str, Any]) -> None:
    """Set those switches that differ and can be set here.

    The matmul precision comes last: PyTorch sets TF32 by it, and refuses to read it after they were set apart.
    """
    changed = [name for name, read in _SETTABLE.items() if name in flags and read() != flags[name]]
    for name in changed:
        if name != "matmul_precision":
            set_flag(name, flags[name])
    if "matmul_precision" in flags and {"matmul_precision", "cuda_tf32"} & set(changed):
        set_flag("matmul_precision", flags["matmul_precision"])


class Switches:
    """Switches that a call is to run under; `apply` asks the process for them and sets what differs.

    Args:
        flags: by their names in `Flags`; what cannot be set here is left as it is.
    """

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self._flags = flags
        self._wanted = [(read, flags[name]) for name, read in _SETTABLE.items() if name in flags]

    def apply(self) -> None:
        """Set those that differ."""
        for read, value in self._wanted:
            if read() != value:
                apply_flags(self._flags)
                return


@contextmanager
def set_flags(flags: Mapping[str, Any]) -> Iterator[None]:
    """Those switches that can be set here, for the length of a block; the others are left as they are."""
    before = settable_now()
    try:
        apply_flags(flags)
        yield
    finally:
        apply_flags(before)


def environment() -> Environment:
    """Everything outside the program that can change numbers."""
    return Environment(
        versions=dict(_versions()),
        hardware=dict(_hardware()),
        flags=_flags(),
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        rng={
            "python": _digest(repr(random.getstate()).encode()),
            "numpy": _numpy_state(),
            "torch": _digest(torch.get_rng_state().numpy().tobytes()),
        },
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


_NUMPY: list[tuple[Any, str]] = [(None, "")]
"""The state of numpy's generator that was written down last, with its digest: writing it takes a millisecond."""


def _numpy_state() -> str:
    state: Any = np.random.get_state()
    if not isinstance(state, tuple):  # another generator than the Mersenne twister stands there
        return _digest(repr(state).encode())
    name, numbers, *rest = state
    now = name, numbers.tobytes(), rest, np.get_printoptions()
    before, digest = _NUMPY[0]
    if now != before:
        digest = _digest(repr(state).encode())
        _NUMPY[0] = now, digest
    return digest


@functools.cache
def _versions() -> Mapping[str, str]:
    """Of what was loaded; no process changes them, and finding them out takes longer than a small capture."""
    config = torch.__config__.show()
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    found |= installed(("transformers", "accelerate", "triton"))
    for label, pattern in (
        ("mkl", r"Math Kernel Library Version (\S+)"),
        ("onednn", r"MKL-DNN v(\S+)"),
        ("openmp", r"OpenMP (\d+)"),
        ("blas", r"BLAS_INFO=(\w+)"),
        ("compiler", r"- (GCC [\d.]+)"),
    ):
        match = re.search(pattern, config)
        if match:
            found[label] = match.group(1)
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
        if torch.backends.cudnn.is_available():
            found["cudnn"] = str(torch.backends.cudnn.version())
    return found


@functools.cache
def _hardware() -> Mapping[str, str]:
    """What the process runs on."""
    found = {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu": cpu_name(),
        "cores": str(os.cpu_count()),
    }
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return found


def _flags() -> dict[str, Any]:
    backends = torch.backends.cuda
    return flags_now().as_dict() | {
        "interop_threads": torch.get_num_interop_threads(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "inference_mode": torch.is_inference_mode_enabled(),
        "autocast_cpu": _autocast("cpu"),
        "autocast_cuda": _autocast("cuda"),
        "sdp_flash": backends.flash_sdp_enabled(),
        "sdp_mem_efficient": backends.mem_efficient_sdp_enabled(),
        "sdp_math": backends.math_sdp_enabled(),
        "flush_denormal": _flushes_denormals(),
    }


def _autocast(device: str) -> str:
    if not torch.is_autocast_enabled(device):
        return "off"
    return str(torch.get_autocast_dtype(device)).removeprefix("torch.")


def _flushes_denormals() -> bool:
    return bool((torch.tensor([1e-39]) * 0.5).item() == 0.0)


def rng_state(generator: torch.Generator | None, device: Any) -> Payload:
    """State of the generator that a random op is about to draw from, as bytes."""
    if generator is not None:
        return to_payload(generator.get_state())
    if device is not None and torch.device(device).type == "cuda":
        return to_payload(torch.cuda.get_rng_state(device))
    return to_payload(torch.get_rng_state())


def set_rng_state(state: torch.Tensor, generator: torch.Generator | None, device: Any) -> None:
    """Let a random op draw from a state (uint8 `[bytes]`) that `rng_state` told of a like one."""
    if generator is not None:
        generator.set_state(state)
    elif device is not None and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
