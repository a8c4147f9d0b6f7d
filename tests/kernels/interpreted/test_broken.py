"""What the interpreter catches."""

import pytest
import torch

from tests.kernels.broken import narrow_arithmetic, wrong_mask
from tests.kernels.oracle import close


def test_a_wrong_mask_is_caught(guarded):
    x = torch.arange(37.0)

    def run():
        with guarded():
            out = torch.empty(37, dtype=torch.float32)
            wrong_mask[(3,)](x, out, 37, TILE=16)

    with pytest.raises(AssertionError, match="out of bounds"):
        run()


def test_arithmetic_in_bf16_is_caught():
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) + 1
    out = torch.empty(1, dtype=torch.float32)
    narrow_arithmetic[(1,)](x, out, 4096, TILE=16)
    with pytest.raises(AssertionError, match="from float64"):
        close(out[0], x.float().sum(), x.double().sum())
