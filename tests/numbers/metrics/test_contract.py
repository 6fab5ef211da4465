"""What every file of the metrics folder promises."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest

import whydiff.numbers.metrics
from whydiff import registry
from whydiff.numbers.metrics import Metric, Statistics, measure
from whydiff.records import Payload

OWN = [
    name for name in registry.names("metrics") if (Path(whydiff.numbers.metrics.__path__[0]) / f"{name}.py").exists()
]
A = [3.0, -4.0, 0.0, 0.0]
B = [-1.0, -4.0, 2.0, -0.0]
EXPECTED = {  # of A and B with a tolerance of 0.5; None: see the test with other inputs
    "cosine": 13 / (5 * math.sqrt(21)),
    "different": 0.75,
    "inf_mismatch": None,
    "max_abs": 4.0,
    "max_rel": 4 / 3,
    "max_ulp": None,
    "mean_abs": 1.5,
    "mismatched": 0.5,
    "nan_mismatch": None,
    "rel_l2": math.sqrt(20) / 5,
    "sign_flips": 0.25,
}


def f32(*values: float) -> Payload:
    return Payload(np.array(values, np.float32), "float32")


def statistics(reference: Payload, candidate: Payload, atol: float = 0.5) -> Statistics:
    return measure(reference, candidate, 0.0, atol)


def test_the_folder_holds_what_the_documentation_lists() -> None:
    assert set(EXPECTED) == set(OWN)


@pytest.mark.parametrize("name", OWN)
def test_each_file_registers_a_metric_of_its_own_name(name: str) -> None:
    metric = registry.get("metrics", name)
    assert isinstance(metric, Metric)
    assert metric.name == name
    assert metric.per in ("abs(reference)", "elements", "")


@pytest.mark.parametrize("name", OWN)
def test_each_metric_is_zero_on_equal_tensors_and_finite_on_empty_ones(name: str) -> None:
    metric = registry.get("metrics", name)
    neutral = 1.0 if name == "cosine" else 0.0
    for payload in (f32(*A), f32(), f32(math.nan, math.inf), f32(0, 0)):
        assert metric(statistics(payload, payload)) == neutral


@pytest.mark.parametrize("name", [n for n, value in EXPECTED.items() if value is not None])
def test_each_metric_has_the_documented_value(name: str) -> None:
    found = registry.get("metrics", name)(statistics(f32(*A), f32(*B)))
    assert found == pytest.approx(EXPECTED[name], rel=1e-12)


def test_the_metrics_that_need_other_inputs() -> None:
    step = statistics(f32(1), f32(1 + 2**-23))
    special = statistics(f32(1, math.inf, math.nan, math.nan), f32(math.nan, 1, math.nan, math.nan))
    assert registry.get("metrics", "max_ulp")(step) == 1.0
    assert registry.get("metrics", "inf_mismatch")(special) == 0.25
    assert registry.get("metrics", "nan_mismatch")(special) == 0.25


def test_a_zero_reference_makes_relative_errors_infinite_or_counted() -> None:
    found = statistics(f32(0, 0), f32(1, 0))
    assert registry.get("metrics", "rel_l2")(found) == math.inf
    assert registry.get("metrics", "cosine")(found) == 0.0
    assert (registry.get("metrics", "max_rel")(found), found.over_zero) == (0.0, 1)


def test_denominators_are_the_reference() -> None:
    there, back = (statistics(f32(a), f32(b)) for a, b in ((1, 2), (2, 1)))
    for name in ("max_rel", "rel_l2"):
        metric = registry.get("metrics", name)
        assert (metric(there), metric(back)) == (1.0, 0.5)


@pytest.mark.parametrize("path", sorted(Path(whydiff.numbers.metrics.__path__[0]).glob("*.py")), ids=lambda p: p.stem)
def test_no_metric_sees_a_threshold(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not [name for name in imported if name and name.startswith("whydiff.numbers.tolerance")]
