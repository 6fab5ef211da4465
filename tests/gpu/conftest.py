"""Tests that need a CUDA device: ``make gpu``. Elsewhere they are skipped."""

import pytest
import torch


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "tests/gpu" in str(item.path).replace("\\", "/"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
