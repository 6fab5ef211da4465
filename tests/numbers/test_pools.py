"""Pooling in numpy against PyTorch's, and which other ways keep a result's shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from whydiff.numbers.pools import Pooling, others, pooled


def way(padding: int, *, mean: bool, counted: bool = True, stride: int = 2, dilation: int = 1) -> Pooling:
    return Pooling((2, 3), (3, 3), (stride, stride), ((padding, padding),) * 2, (dilation, dilation), mean, counted)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_largest_is_pytorchs(padding: int, dilation: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 7))
    ours = pooled(way(padding, mean=False, dilation=dilation), x)
    assert np.array_equal(ours, functional.max_pool2d(torch.from_numpy(x), 3, 2, padding, dilation).numpy())


@pytest.mark.parametrize("counted", [False, True])
def test_the_mean_is_pytorchs(counted: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 7))
    theirs = functional.avg_pool2d(torch.from_numpy(x), 3, 2, 1, count_include_pad=counted).numpy()
    assert np.allclose(pooled(way(1, mean=True, counted=counted), x), theirs, rtol=1e-13)


def test_other_ways_keep_the_shape_and_are_other_ways() -> None:
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 7))
    for own in (way(1, mean=False), way(1, mean=True), way(0, mean=True)):
        shape = pooled(own, x).shape
        found = [*others(own, x.shape, shape)]
        assert own not in found
        assert len(set(found)) == len(found) >= 1
        assert {pooled(one, x).shape for one in found} == {shape}
    assert not any(
        one.counted is False
        for one in others(way(0, mean=True), x.shape, (1, 1, 3, 3))
        if not any(map(any, one.padding))
    )


def test_words() -> None:
    assert way(1, mean=False).says((2, 3, 8, 7)) == "takes the largest of windows, pads (1, 1)×(1, 1)"
    same = Pooling((1,), (3,), (2,), ((0, 1),), (1,), True, False)
    assert same.says((2, 8)) == "takes the mean of windows, pads (0, 1) (SAME), does not count the padding"
