"""What importing whydiff costs and offers."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import whydiff

FRAMEWORKS = {"torch", "jax", "jaxlib", "transformers"}
FRAMEWORK_ROOMS = ("whydiff.capturing.adapters.", "whydiff.cli.demos.")
SOURCE = Path(whydiff.__file__).parents[1]


def loaded_by(modules: list[str], watched: set[str], *path: Path) -> set[str]:
    """Which of the watched packages a fresh interpreter has loaded after importing the modules."""
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(*sorted({watched!r} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, SOURCE)))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def core_modules() -> list[str]:
    found = pkgutil.walk_packages(whydiff.__path__, "whydiff.")
    names = [m.name for m in found if not m.name.endswith(".__main__")]  # importing one runs a command
    return [name for name in names if not f"{name}.".startswith(FRAMEWORK_ROOMS)]


def test_the_core_imports_no_framework() -> None:
    modules = core_modules()
    assert {"whydiff.records", "whydiff.registry", "whydiff.numbers.metrics"} <= set(modules)
    assert loaded_by(modules, FRAMEWORKS) == set()


def test_importing_whydiff_loads_nothing_heavy() -> None:
    watched = {*FRAMEWORKS, "numpy", "rich", "typer", "safetensors", "numba", "whydiff.records"}
    assert loaded_by(["whydiff"], watched) == set()


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_the_two_tests_above_can_fail(framework: str, tmp_path: Path) -> None:
    (tmp_path / f"{framework}.py").touch()  # a stand-in: quick, and there without the real one
    (tmp_path / "guilty.py").write_text(f"import whydiff.records\nimport {framework}\n")
    assert loaded_by(["guilty"], FRAMEWORKS, tmp_path) == {framework}


def test_public_names_are_these() -> None:
    # Removing or renaming one breaks users: do it with a major version only.
    assert set(whydiff.__all__) == {
        "CaptureError",
        "Diagnosis",
        "Differs",
        "Interrupted",
        "MissingPackageError",
        "Options",
        "PayloadError",
        "PluginError",
        "ReplayError",
        "TargetError",
        "TraceError",
        "TraceFormatError",
        "TraceVersionError",
        "TrainingOptions",
        "UnsupportedError",
        "UsageError",
        "Verdict",
        "WhydiffError",
        "__version__",
        "assert_batch_invariant",
        "assert_same",
        "batch_invariant",
        "capture",
        "check_port",
        "check_ranks",
        "compare",
        "compare_artifacts",
        "compare_decoding",
        "compare_dumps",
        "compare_formulas",
        "compare_logprobs",
        "compare_training",
        "range_audit",
        "smallest_graph",
        "sweep",
        "open",
    }
    assert dir(whydiff) == sorted(whydiff.__all__)


@pytest.mark.parametrize(
    ("name", "home", "attribute"),
    [
        ("capture", "whydiff.capturing.record", "capture"),
        ("compare", "whydiff.pipeline", "compare"),
        ("open", "whydiff.capturing.store", "open_trace"),
        ("Diagnosis", "whydiff.records", "Diagnosis"),
        ("Verdict", "whydiff.records", "Verdict"),
        ("WhydiffError", "whydiff.errors", "WhydiffError"),
    ],
)
def test_public_names_are_the_rooms_own_objects(name: str, home: str, attribute: str) -> None:
    assert getattr(whydiff, name) is getattr(importlib.import_module(home), attribute)


def test_every_error_is_public() -> None:
    errors = importlib.import_module("whydiff.errors")
    named = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    defined = {name for name, value in named.items() if issubclass(value, errors.WhydiffError)}
    assert {name for name in whydiff.__all__ if name.endswith("Error")} == defined
    assert all(getattr(whydiff, name) is getattr(errors, name) for name in defined)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compair'"):
        whydiff.compair  # noqa: B018
