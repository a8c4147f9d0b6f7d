"""A dense layer with its LoRA in one product, forward and backward, against float64."""

import pytest
import torch

from course_lib.kernels import lora_linear
from course_lib.kernels.lora_linear import product
from tests.kernels.oracle import close

TYPES = [torch.float32, torch.bfloat16, torch.float16]


def drawn(shapes, dtype):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(shape, generator=generator) / shape[1] ** 0.5).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "d_in", "d_out", "r"), [(1, 7, 5, 1), (33, 70, 50, 8), (16, 64, 32, 17)])
def test_product_against_float64(rows, d_in, d_out, r, transposed, dtype, guarded):
    x, w, down, up = drawn([(rows, d_in), (d_out, d_in), (d_in, r), (d_out, r)], dtype)
    w = w.T.contiguous().T if transposed else w
    with guarded():
        got = product(x, w, down, up, 0.5, tiles=(16, 32, 32))
    exact = x.double() @ w.double().T + 0.5 * (x.double() @ down.double()) @ up.double().T
    close(got, x @ w.T + 0.5 * (x @ down) @ up.T, exact)


@pytest.mark.parametrize("dtype", TYPES)
def test_gradients_against_float64(dtype):
    x, W, A, B, g = drawn([(20, 40), (30, 40), (30, 4), (40, 4), (20, 30)], dtype)

    def gradients(kind, run):
        leaves = [t.to(kind).requires_grad_() for t in (x, A, B)]
        run(leaves[0], W.to(kind), *leaves[1:]).backward(g.to(kind))
        return [leaf.grad for leaf in leaves]

    plain = lambda x, W, A, B: x @ W.T + 0.5 * (x @ B) @ A.T  # noqa: E731
    exact, torchs = gradients(torch.float64, plain), gradients(dtype, plain)
    ours = gradients(dtype, lambda x, W, A, B: lora_linear(x, W, A, B, 0.5))
    for a, b, c in zip(ours, torchs, exact, strict=True):
        close(a, b, c)
