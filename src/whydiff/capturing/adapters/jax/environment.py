"""What surrounds a run: versions, devices, flags, variables."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jaxlib
import numpy as np

from whydiff.capturing.adapters._live import cpu_name, installed
from whydiff.records import Environment

FLAGS = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_disable_jit",
    "jax_softmax_custom_jvp",
    "jax_default_dtype_bits",
    "jax_disable_most_optimizations",
    "jax_numpy_rank_promotion",
    "jax_debug_nans",
)
"""Switches of ``jax.config`` that can change numbers."""

COMPILER = ("xla_allow_excess_precision",)
"""Compiler options that an intervention may set for the programs of a run."""

_VARIABLES = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "NVIDIA_TF32_OVERRIDE",
    "CUDA_VISIBLE_DEVICES",
    "TF_CUDNN_DETERMINISTIC",
    "OMP_NUM_THREADS",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "PYTHONHASHSEED",
)
_PACKAGES = ("flax", "equinox", "penzai", "ml_dtypes", "optax")


def flags_now() -> dict[str, Any]:
    """The switches as they stand."""
    found = {name: getattr(jax.config, name) for name in FLAGS if hasattr(jax.config, name)}
    return {name: v if isinstance(v, (bool, int, float, str, type(None))) else str(v) for name, v in found.items()}


@contextmanager
def flag_set(name: str, value: Any) -> Iterator[None]:
    """One switch of ``jax.config`` at another value, for the length of the block."""
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def environment() -> Environment:
    """Everything outside the program that can change numbers."""
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    variables |= {name: value for name, value in sorted(os.environ.items()) if name.startswith("JAX_")}
    return Environment(versions=_versions(), hardware=_hardware(), flags=flags_now(), variables=variables, rng={})


def _versions() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
    }
    found |= installed(_PACKAGES)
    platform_version = getattr(jax.devices()[0].client, "platform_version", "")
    if jax.default_backend() != "cpu" and platform_version:
        found["platform"] = platform_version.splitlines()[0]
    return found


def _hardware() -> dict[str, str]:
    devices = jax.devices()
    found = {
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
        "platform": jax.default_backend(),
        "cpu": cpu_name(),
    }
    return found | {f"{d.platform}:{d.id}": d.device_kind for d in devices if d.platform != "cpu"}
