"""Nothing to do is no error: no kernel is launched with no programs."""

import pytest
import torch

from course_lib.kernels import (
    adamw8bit,
    linear_cross_entropy,
    lora_linear,
    nf4_dequantize,
    nf4_linear,
    nf4_quantize,
    pairwise_loss,
    svft_banded,
    svft_sparse,
)
from course_lib.kernels.svft_banded import band
from course_lib.kernels.svft_sparse import layout
from course_lib.quant import dynamic_code, nf4_code
from tests.kernels.broken import wrong_mask
from tests.kernels.oracle import middles, quantised


def empty(*shape, grad=False):
    return torch.zeros(shape, requires_grad=grad)


def test_no_numbers():
    packed, scales = nf4_quantize(empty(0), middles(), 64)
    back = nf4_dequantize(packed, scales, None, None, nf4_code(), dynamic_code(), 0, 64, torch.bfloat16)
    assert back.shape == (0,)
    bytes_, tables = [torch.zeros(0, dtype=torch.uint8) for _ in range(2)], [torch.zeros(256)] * 4
    kept = (bytes_[0], empty(0), bytes_[1], empty(0))
    adamw8bit(empty(0), empty(0), *kept, *tables, 1e-3, 0.9, 0.999, 1e-8, 0.0, 1)
    assert pairwise_loss(empty(0), empty(0)).shape == (0,)


def test_no_rows():
    weight, _, _ = quantised((10, 64), torch.float32)
    A, B = torch.randn(10, 2, requires_grad=True), torch.randn(64, 2, requires_grad=True)
    cells, values = band(8, 1), torch.randn(22, requires_grad=True)
    outputs = [
        nf4_linear(empty(0, 64, grad=True), *weight, 10, 64, A, B, 0.5),
        lora_linear(empty(0, 64, grad=True), torch.randn(10, 64), A, B, 0.5),
        svft_banded(empty(0, 8, grad=True), values, 1),
        svft_sparse(empty(0, 8, grad=True), values, *layout(cells, 8)),
    ]
    for out in outputs:
        assert len(out) == 0
        out.sum().backward()
    assert all(leaf.grad.eq(0).all() for leaf in (A, B, values))
    hidden = empty(0, 8, grad=True)
    loss = linear_cross_entropy(hidden, torch.randn(5, 8), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0


def test_no_cells():
    none = layout(torch.zeros(2, 0, dtype=torch.long), 4)
    y = torch.randn(3, 4, requires_grad=True)
    out = svft_sparse(y, empty(0, grad=True), *none)
    out.sum().backward()
    assert out.eq(0).all()
    assert y.grad.eq(0).all()


@pytest.mark.parametrize("grid", [(0,), (4, 0), (1, 70_000)])
def test_a_launch_that_a_gpu_refuses_is_caught(grid):
    with pytest.raises(AssertionError, match="cannot launch"):
        wrong_mask[grid](torch.zeros(8), torch.zeros(8), 7, TILE=8)
