"""The one-pass comparison on a GPU finds what the host's does: every pair of dtypes, any length, numbers that are none."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whydiff.capturing.adapters.torch.comparing import alike, measurable, measured, usable
from whydiff.capturing.adapters.torch.dtypes import to_payload
from whydiff.capturing.adapters.torch.held import mean_and_excess
from whydiff.numbers.metrics import measure
from whydiff.numbers.pieces import mean_and_excess as in_numpy

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ODD = (0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 6e4, -6e4, 1e-7)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    size=st.one_of(
        st.integers(1, 2_000), st.integers(1, 3_000_000), st.sampled_from([511, 512, 513, 524_288, 524_289])
    ),
    odd=st.integers(0, 40),
    spread=st.sampled_from([0.0, 1e-7, 1e-3, 10.0]),
    seed=st.integers(0, 999),
)
def test_statistics_are_those_of_the_host(dtypes, size, odd, spread, seed):
    draw = np.random.default_rng(seed)
    line = draw.standard_normal(size).astype(np.float32)
    other = line * (1 + spread * draw.standard_normal(size)).astype(np.float32)
    for values in (line, other):
        places = draw.integers(0, size, odd)
        values[places] = draw.choice(np.array(ODD, np.float32), odd)
    one, two = (torch.from_numpy(v).to(dtype).cuda() for v, dtype in zip((line, other), dtypes, strict=True))
    found = measured(one, two, 1e-3, 1e-5)
    assert alike(found, measure(to_payload(one), to_payload(two), 1e-3, 1e-5))


@pytest.mark.parametrize("limits", [(1e-2, 1e-5), (0.0, 0.0)], ids=["limits", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_programs_that_take_many_chunks(monkeypatch, dtype, limits):
    monkeypatch.setattr(comparing_there(), "_PROGRAMS", 3)
    torch.manual_seed(0)
    line = torch.randn(500_003, device="cuda")
    near = line * (1 + 1e-2 * torch.randn_like(line))
    odd = near.clone()
    odd[200_000:200_020] = torch.tensor(ODD * 2, device="cuda")
    pairs = [
        (line, near),
        (line, line),
        (line, odd),
        (odd, near),
        (line.relu(), near.relu()),
        (line, -line),
        (line * 1e-30, near * 1e-30),
        (line.masked_fill(line > 0, -math.inf), near.masked_fill(line > 0, -math.inf)),
    ]
    for one, two in pairs:
        one, two = one.to(dtype), two.to(dtype)
        for ours, theirs in ((one, two), (one[1:], two[1:]), (one, two.float())):
            assert alike(measured(ours, theirs, *limits), measure(to_payload(ours), to_payload(theirs), *limits))


def comparing_there():
    """The module that a first comparison imports, which needs Triton."""
    from whydiff.capturing.adapters.torch.device import measuring

    return measuring


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_pattern_of_a_small_dtype_and_a_look_that_is_not_dense(dtype):
    codes = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    line = codes.view(dtype) if dtype.itemsize == 2 else codes.view(torch.float16).float()
    one, two = line.cuda().reshape(256, 256), line.flip(0).cuda().reshape(256, 256)
    for ours, theirs in itertools.permutations((one, two, one.t()), 2):
        found = measured(ours, theirs)
        assert alike(found, measure(to_payload(ours), to_payload(theirs)))


def test_which_pairs_are_measured_there():
    large = torch.ones(100_000, device="cuda")
    assert usable(large.device) and measurable(large, large.half())
    assert not measurable(large, large.cpu()) and not measurable(large[:9], large[:9])
    assert not measurable(large, large.double()) and not measurable(large, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_mean_and_excess_are_those_of_the_host(dtype):
    torch.manual_seed(0)
    ours = torch.randn(300, 257, device="cuda", dtype=torch.float64).to(dtype)
    theirs = ours.double() * 1.01
    expected = in_numpy(to_payload(ours), to_payload(theirs), 1e-3)
    assert mean_and_excess(ours, theirs, 1e-3) == pytest.approx(expected, rel=1e-12)
