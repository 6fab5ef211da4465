"""Complex numbers, numbers without axes and results of another shape: the oracle works, or says that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import whydiff
from whydiff.errors import ReplayError
from whydiff.explain.causes._written import part_of
from whydiff.explain.local_test.looks import Look
from whydiff.explain.local_test.replays import Region
from whydiff.records import Event, Site, TensorSpec

generator = torch.Generator().manual_seed(0)
Z = torch.randn(4, 6, dtype=torch.complex64, generator=generator)
X = torch.randn(4, 6, 2, generator=generator)

SCALED: dict[str, Callable[[float], Any]] = {
    "a complex result": lambda factor: Z * factor,
    "a real result of complex numbers": lambda factor: (Z * factor).abs(),
    "a transform": lambda factor: torch.fft.ifft(torch.fft.fft(Z) * factor),
    "looked at as complex and back": lambda factor: torch.view_as_real(torch.view_as_complex(X) * factor),
}


@pytest.mark.parametrize("what", SCALED)
def test_another_factor_on_complex_numbers_is_named(what: str) -> None:
    run = SCALED[what]
    found = whydiff.compare(lambda: run(1.25), lambda: run(1.5))
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO003", "confirmed")]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_sums_in_another_order_are_rounding(dtype: torch.dtype) -> None:
    z = torch.randn(3, 300, dtype=dtype, generator=generator)
    found = whydiff.compare(lambda: z.sum(1), lambda: z.flip(1).cumsum(1)[:, -1])
    assert str(found.verdict) in ("rounding", "identical")
    assert not any(cause.status == "confirmed" and str(cause.verdict) == "semantic" for cause in found.causes)


def event(spec: TensorSpec) -> Event:
    return Event(site=Site(scope="", op="sum"), spec=spec, storage=1)


def test_a_result_of_another_shape_is_no_value_of_the_region() -> None:
    with pytest.raises(ReplayError, match="another shape"):
        Look(event(TensorSpec(shape=(65_536,), dtype="float32"))).place({}, np.zeros(()))


def test_complex_values_and_their_real_look_share_a_storage() -> None:
    whole = event(TensorSpec(shape=(2,), dtype="complex64", strides=(1,)))
    real = event(TensorSpec(shape=(2,), dtype="float32", strides=(2,)))
    memory: dict[int, Any] = {}
    Look(whole).place(memory, np.array([[1.0, 2.0], [3.0, 4.0]]))
    region = Region([], real, None)  # type: ignore[arg-type]
    assert region._run([memory[1][::2]], None).tolist() == [1.0, 3.0]


def test_a_number_without_axes_has_one_part() -> None:
    a, b = torch.tensor(2.0), torch.tensor(3.0)
    found = whydiff.compare(lambda: (a + 1) * b.exp(), lambda: (b.exp() + 1) * b.exp())
    assert str(found.verdict) == "semantic"
    trace: Any = type("T", (), {"calls": (), "leaves": ()})()
    assert part_of(trace, event(TensorSpec(shape=(), dtype="float32"))) is None


def test_an_exported_program_whose_mode_cannot_change_is_compared() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)).eval()
    x = torch.randn(2, 4, generator=generator)
    exported = torch.export.export(model, (x,)).module()
    found = whydiff.compare(model, exported, x)
    assert str(found.verdict) == "identical"
    assert all("failed" in cause.reason for cause in found.causes if cause.code == "MD001")
