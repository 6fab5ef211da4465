"""Large tensors come to the host bit for bit: every dtype, odd sizes, looks that are not dense, another stream, inference."""

import pytest
import torch

from whydiff.capturing.adapters.torch.device.fetching import LARGE, fetched

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nbytes", [LARGE - 8, LARGE + 24, (32 << 20) + 16, (96 << 20)])
def test_every_byte_arrives(dtype, nbytes):
    octets = torch.randint(0, 2 if dtype is torch.bool else 256, (nbytes,), dtype=torch.uint8)
    host = octets.view(dtype)
    found = fetched(host.cuda())
    assert found.dtype is dtype and not found.is_cuda and not found.is_pinned()
    assert torch.equal(found.view(torch.uint8), octets)


@pytest.mark.parametrize("inference", [False, True])
def test_a_look_that_is_not_dense_and_a_stream_of_its_own(inference):
    with torch.inference_mode(inference), torch.cuda.stream(torch.cuda.Stream()):
        square = torch.randn(4000, 3000, device="cuda")
        for _ in range(20):
            square = square * 1.0001
        for look in (square, square.t(), square[:, 1:], square[0].expand(3000, -1)):
            assert torch.equal(fetched(look), look.cpu().contiguous())
            assert fetched(look).is_contiguous()
