"""The NF4 kernels, step by step, against our CPU path to the bit and float64 to the type's own loss."""

import pytest
import torch

from course_lib.kernels import nf4_dequantize, nf4_linear, nf4_quantize
from course_lib.kernels.nf4_linear import fused_gradient, fused_linear
from course_lib.quant import dequantize, quantize_nf4
from tests.kernels.oracle import close, middles, quantised

TYPES = [torch.float32, torch.bfloat16, torch.float16]
RAGGED = [1, 2, 63, 64, 65, 129, 5000, 8192 + 37]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", RAGGED)
def test_dequantise_is_the_cpu_s_to_the_bit(n, dtype, guarded):
    weight, q, _ = quantised((n,), dtype, double=n % 2 == 0)
    with guarded():
        got = nf4_dequantize(*weight, n, 64, dtype)
    assert torch.equal(got, dequantize(q))


@pytest.mark.parametrize("block", [32, 128, 4096])
def test_dequantise_takes_every_block_size(block, guarded):
    weight, q, _ = quantised((3, 4100), torch.float32, block=block)
    with guarded():
        got = nf4_dequantize(*weight, 3 * 4100, block, torch.float32)
    assert torch.equal(got.view(3, 4100), dequantize(q))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", RAGGED)
def test_quantise_is_the_cpu_s_to_the_bit(n, dtype, guarded):
    _, q, w = quantised((n,), dtype, double=False)
    with guarded():
        packed, scales = nf4_quantize(w, middles(), 64)
    assert torch.equal(scales, q.scales)
    assert torch.equal(packed, q.packed)


def test_quantise_on_the_edges(guarded):
    """Zeros, one number, the middles themselves, the smallest numbers."""
    w = torch.zeros(5 * 64)
    w[64] = -3.0
    w[128:143], w[150] = middles(), 1.0
    w[192:256] = 1e-39
    w[256:320] = torch.linspace(-1e-30, 1e-30, 64)
    q = quantize_nf4(w, 64, False)
    with guarded():
        packed, scales = nf4_quantize(w, middles(), 64)
    assert torch.equal(packed, q.packed)
    assert torch.equal(scales, q.scales)


@pytest.mark.filterwarnings("ignore:invalid value")  # infinity times zero, as it should be
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_quantise_tells_of_a_number_that_is_not_finite(bad):
    w = torch.randn(256)
    w[70] = bad
    _, scales = nf4_quantize(w, middles(), 64)
    assert scales.isinf().tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("rows", "d_in", "d_out", "rank"), [(1, 128, 70, 0), (5, 256, 64, 3), (16, 64, 130, 16)]
)
def test_linear_against_float64(rows, d_in, d_out, rank, dtype, guarded):
    weight, q, _ = quantised((d_out, d_in), dtype)
    generator = torch.Generator().manual_seed(1)
    x, A, B = (torch.randn(shape, generator=generator).to(dtype)
               for shape in ((rows, d_in), (d_out, rank), (d_in, rank)))  # fmt: skip
    adapter = (A, B, 0.5) if rank else ()
    with guarded():
        got = nf4_linear(x, *weight, d_out, 64, *adapter)
    w = dequantize(q)
    torchs = x @ w.T + (0.5 * (x @ B) @ A.T if rank else 0)
    exact = x.double() @ w.double().T + 0.5 * (x.double() @ B.double()) @ A.double().T
    close(got, torchs, exact)


@pytest.mark.parametrize("programs", [1, 3, 1000])
def test_linear_shares_out_its_columns(programs, guarded):
    """However the columns of W are shared out, also unevenly, the sum is the same."""
    weight, q, _ = quantised((40, 64 * 7), torch.float32)
    x = torch.randn(3, 64 * 7, generator=torch.Generator().manual_seed(1))
    with guarded():
        got = fused_linear(x, *weight, (40, 64 * 7), 64, programs=programs)
    exact = x.double() @ dequantize(q).double().T
    close(got, x @ dequantize(q).T, exact)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [2, 100])
def test_linear_s_gradients_against_float64(rows, dtype):
    weight, q, _ = quantised((64, 128), dtype)
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(shape, generator=generator) / 4 for shape in ((rows, 128), (64, 4), (128, 4))]
    g = torch.randn(rows, 64, generator=generator).to(dtype)

    def gradients(kind, run):
        leaves = [t.to(dtype).to(kind).requires_grad_() for t in made]
        run(*leaves).backward(g.to(kind))
        return [leaf.grad for leaf in leaves]

    w = dequantize(q)
    plain = lambda x, A, B: x @ w.to(x.dtype).T + 0.5 * (x @ B) @ A.T  # noqa: E731
    exact = gradients(torch.float64, plain)
    torchs = gradients(dtype, plain)
    ours = gradients(dtype, lambda x, A, B: nf4_linear(x, *weight, 64, 64, A, B, 0.5))
    for a, b, c in zip(ours, torchs, exact, strict=True):
        close(a, b, c)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "d_in", "d_out"), [(1, 64, 5), (3, 128, 200), (16, 192, 65)])
def test_gradient_of_few_rows_against_float64(rows, d_in, d_out, dtype, guarded):
    weight, q, _ = quantised((d_out, d_in), dtype, double=rows > 1)
    g = torch.randn(rows, d_out, generator=torch.Generator().manual_seed(1)).to(dtype)
    with guarded():
        got = fused_gradient(g, *weight, (d_out, d_in), 64, step=32, programs=5)
    w = dequantize(q)
    close(got, g @ w, g.double() @ w.double())


@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("d_in", [64, 192, 320])
def test_gradient_takes_columns_that_fill_no_tile(d_in, block, guarded):
    """A tile of W has 128 columns: four blocks of 32, or two of 64, the last one with fewer."""
    weight, q, _ = quantised((70, d_in), torch.float32, block=block)
    g = torch.randn(3, 70, generator=torch.Generator().manual_seed(1))
    with guarded():
        got = fused_gradient(g, *weight, (70, d_in), block)
    w = dequantize(q)
    close(got, g @ w, g.double() @ w.double())
