"""Settings and real weights that every test shares."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

# The same examples everywhere, however busy the machine. A fixture is set up once for all examples of a test.
settings.register_profile(
    "whydiff",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("whydiff")

# Before any framework is imported: no network, and one thread a worker (`pytest -n 2` on two cores).
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a part raises comes through, instead of being counted: our own mistakes fail our tests.
os.environ["WHYDIFF_RAISE"] = "1"
# What XLA compiled once is not compiled again, by no worker and no process of a test. Here, and not in `pytest_configure`:
# a folder's conftest that imports JAX comes before that, where pytest is given the folder. One that is set is the user's
# own, or that of the process which began this worker.
COMPILED = "" if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="whydiff-tests-jax-")
if COMPILED:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# A worker has collected every file: looking through all that they loaded took up to a tenth of its time.
gc.set_threshold(2_000, 10, 20)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    """Look for garbage once at the end, not ten times."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Kernels are compiled into numba's cache before there are workers; what XLA compiled goes when all is over."""
    if getattr(config.option, "numprocesses", None):
        from whydiff.numbers.kernels import kernel_of

        for package in ("fingerprint", "metrics", "ranges"):
            kernel_of(package)
    if COMPILED:
        config.add_cleanup(lambda: shutil.rmtree(COMPILED, ignore_errors=True))


@pytest.fixture(scope="module")
def looked_through() -> Iterator[None]:
    """What a worker holds is looked through for models once a file, not for every training run: it is a million things."""
    from whydiff.capturing.adapters.torch.training.following import settled

    with settled():
        yield


@pytest.fixture(scope="module")
def put_away() -> Iterator[None]:
    """What a worker holds is not searched for garbage by whoever looks for some, as transformers' engine does twice a batch."""
    from whydiff.garbage import set_aside

    with set_aside():
        yield


@pytest.fixture(scope="session")
def smollm_dir() -> Path:
    """A transformers checkpoint of SmolLM2-135M in float32, with its tokenizer."""
    from whydiff.cli.demos import smollm

    return smollm.checkpoint()


@pytest.fixture(scope="session")
def smollm(smollm_dir: Path) -> tuple[Any, Any, torch.Tensor]:
    """The demo's reference and candidate (bfloat16) and input ids. Do not leave them changed."""
    from whydiff.cli.demos import smollm

    return smollm.build()


@pytest.fixture(scope="session")
def minilm() -> tuple[Any, Any]:
    """MiniLM-L6 (BertModel, float32, eval) and its tokenizer. Do not leave the model changed."""
    from whydiff.cli.demos import minilm

    return minilm.build()
