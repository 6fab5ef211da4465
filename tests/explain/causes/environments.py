"""Run by `test_contract.py` in several environments: what EN001, EN002 and EN004 are, each with one variable.

``ATEN_CPU_CAPABILITY`` limits the instruction set. ``WHYDIFF_TEST_ONEDNN=0`` is a launcher that switches oneDNN off.
``WHYDIFF_TEST_RELEASE`` is another release of torch, whose layer norm rounds in another order.
"""

from __future__ import annotations

import os

import torch

if os.environ.get("WHYDIFF_TEST_ONEDNN") == "0":
    torch.backends.mkldnn.set_flags(False)

if "WHYDIFF_TEST_RELEASE" in os.environ:
    torch.__version__ = torch.torch_version.TorchVersion(os.environ["WHYDIFF_TEST_RELEASE"])  # type: ignore[misc]
    RELEASE = torch.library.Library("aten", "IMPL")

    def layer_norm(x: torch.Tensor, shape: list[int], weight: object, bias: object, eps: float) -> object:
        mean = x.flip(-1).mean(-1, keepdim=True)
        over = ((x - mean).square().mean(-1, keepdim=True) + eps).sqrt()
        return (x - mean) / over, mean, 1 / over

    RELEASE.impl("native_layer_norm", layer_norm, "CPU")


def table(*shape: int) -> torch.Tensor:
    """Numbers that no random generator makes: those differ between instruction sets."""
    size = torch.Size(shape).numel()
    return ((torch.arange(size) * 7919 % 1021) - 510).float().reshape(shape) / 511


def run() -> tuple[torch.Tensor, ...]:
    """A layer norm, and a convolution that oneDNN carries out."""
    with torch.no_grad():
        image = torch.nn.functional.conv2d(table(2, 16, 12, 12), table(8, 16, 3, 3))
        return torch.nn.functional.layer_norm(table(16, 256), (256,)), image
