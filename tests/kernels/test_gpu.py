"""The kernels on a CUDA device, at real sizes: `make gpu-test`."""

import pytest
import torch
import torch.nn.functional as F

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
from course_lib.kernels.adamw8bit import reference as step_of
from course_lib.kernels.language import use_triton
from course_lib.kernels.pairwise_loss import reference as losses_of
from course_lib.kernels.svft_banded import band
from course_lib.kernels.svft_sparse import layout
from course_lib.quant import dequantize, quantize_nf4
from tests.kernels.oracle import close, middles, quantised
from tests.kernels.test_adamw_pairs_svft import states

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
WIDE = torch.float64


@pytest.fixture(autouse=True)
def plain_products():
    """fp32 products in fp32: TF32 would be the larger error."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def drawn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def placed(parts):
    return tuple(None if part is None else part.cuda() for part in parts)


def against_float64(dtype, given, ours, plain):
    """Output and gradients: ours on the device, torch's there in the same type, and float64's."""

    def run(kind, function):
        leaves = [t.to(dtype).to(kind).cuda().requires_grad_() for t in given]
        out = function(*leaves)
        out.backward(torch.linspace(0.5, 2, out.numel(), device="cuda").view_as(out).to(out.dtype))
        return out.detach(), *(leaf.grad for leaf in leaves)

    exact, torchs, got = run(WIDE, plain), run(dtype, plain), run(dtype, ours)
    for a, b, c in zip(got, torchs, exact, strict=True):
        close(a, b, c)


def test_kernels_are_what_runs():
    assert use_triton(torch.empty(1, device="cuda")), "CUDA, but no Triton: nothing here would be tested"


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(4096, 4096), (1000, 333), (1,)])
def test_nf4_is_the_cpu_s_to_the_bit(shape, dtype, double):
    weight, q, w = quantised(shape, dtype, double)
    n = w.numel()
    got = nf4_dequantize(*placed(weight), n, 64, dtype)
    assert torch.equal(got.cpu().view(shape), dequantize(q))
    packed, scales = nf4_quantize(w.cuda().view(-1), middles().cuda(), 64)
    assert torch.equal(packed.cpu(), q.packed)
    if not double:
        assert torch.equal(scales.cpu(), quantize_nf4(w, 64, False).scales)


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [1, 2, 17, 64, 65, 300])
@pytest.mark.parametrize(("d_out", "d_in"), [(4096, 1024), (200, 320)])
def test_nf4_linear(d_out, d_in, rows, dtype, rank):
    weight, q, _ = quantised((d_out, d_in), dtype)
    weight, w = placed(weight), dequantize(q).cuda()
    given = [drawn(rows, d_in), *([drawn(d_out, rank, seed=1), drawn(d_in, rank, seed=2)] if rank else [])]

    def plain(x, A=None, B=None):
        y = x @ w.to(x.dtype).T
        return y if A is None else y + 0.5 * (x @ B) @ A.T

    against_float64(
        dtype,
        given,
        lambda x, *adapter: nf4_linear(x, *weight, d_out, 64, *adapter, *[0.5] * bool(rank)),
        plain,
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("rows", "d_out", "d_in", "rank"), [(1, 64, 64, 1), (300, 1000, 520, 8), (2048, 1024, 1024, 64)]
)
def test_lora_linear(rows, d_out, d_in, rank, dtype):
    W = drawn(d_out, d_in, seed=3).to(dtype).cuda()
    given = drawn(rows, d_in), drawn(d_out, rank, seed=1), drawn(d_in, rank, seed=2)
    against_float64(
        dtype, given,
        lambda x, A, B: lora_linear(x, W, A, B, 0.5),
        lambda x, A, B: x @ W.to(x.dtype).T + 0.5 * (x @ B) @ A.T,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "width", "vocabulary"), [(7, 24, 50), (300, 256, 32_003)])
def test_linear_cross_entropy(tokens, width, vocabulary, dtype):
    targets = torch.randint(0, vocabulary, (tokens,), generator=torch.Generator().manual_seed(0)).cuda()
    targets[2] = -100

    def plain(h, w):
        return F.cross_entropy((h @ w.T).to(torch.promote_types(h.dtype, torch.float32)), targets)

    against_float64(
        dtype, (drawn(tokens, width), drawn(vocabulary, width, seed=1, scale=width**-0.5)),
        lambda h, w: linear_cross_entropy(h, w, targets, 64), plain,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", [1, 1031, 1_000_000])
def test_adamw8bit(n, dtype):
    settings = (1e-2, 0.9, 0.999, 1e-8, 0.1)
    start = drawn(n).to(dtype)
    ours, kept = start.cuda(), placed(states(n))
    theirs, expected = start.clone(), states(n)
    exact, precise = start.double(), [t.double() if t.is_floating_point() else t.clone() for t in states(n)]
    for step in range(1, 4):
        g = drawn(n, seed=step).to(dtype)
        adamw8bit(ours, g.cuda(), *kept, *settings, step)
        step_of(theirs, g, *expected, *settings, step)
        step_of(exact, g.double(), *precise, *settings, step)
        close(ours.cpu(), theirs, exact)
        for mine, other in zip(kept[:4:2], expected[:4:2], strict=True):
            apart = (mine.cpu().int() - other.int()).abs()
            assert apart.max() <= 1
            assert apart.float().mean() < 1e-2


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", [1, 1025, 100_000])
def test_pairwise_loss(n, dtype):
    label = torch.rand(n, generator=torch.Generator().manual_seed(0)).to(dtype).cuda()
    against_float64(
        dtype, (drawn(n, scale=4), drawn(n, seed=1, scale=4)),
        lambda a, b: pairwise_loss(a, b, None, label, 0.01),
        lambda a, b: losses_of(a, b, None, label.to(a.dtype), 0.01),
    )  # fmt: skip


def test_pairwise_losses_are_exact_in_relative_terms():
    gap = torch.linspace(-80, 80, 4001)
    got, exact = pairwise_loss(gap.cuda(), torch.zeros(4001).cuda()), -F.logsigmoid(gap.double())
    assert ((got.cpu().double() - exact) / exact).abs().max() < 2e-5


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "n", "d"), [(3, 7, 2), (300, 1000, 8), (64, 2048, 0)])
@pytest.mark.parametrize("kind", ["banded", "sparse"])
def test_svft(kind, tokens, n, d, dtype):
    cells = band(n, d, torch.device("cuda"))
    if kind == "sparse":
        picked = (
            torch.randperm(n * n, generator=torch.Generator().manual_seed(0))[: cells.shape[1]].sort().values
        )
        cells = torch.stack([picked // n, picked % n]).cuda()
    where = layout(cells, n)

    def ours(y, values):
        return svft_banded(y, values, d) if kind == "banded" else svft_sparse(y, values, *where)

    def plain(y, values):
        return y @ torch.zeros(n, n, dtype=y.dtype, device="cuda").index_put((cells[0], cells[1]), values).T

    against_float64(dtype, (drawn(tokens, n), drawn(cells.shape[1], seed=1)), ours, plain)


def test_a_compiled_layer_calls_the_kernels():
    """Under torch.compile with its own compiler, forward and backward, in one graph."""
    weight, _, _ = quantised((256, 512), torch.bfloat16)
    weight, W, band_values = placed(weight), drawn(256, 256).bfloat16().cuda(), band(256, 2).shape[1]

    def layer(x, A, B, A2, B2, m):
        y = lora_linear(nf4_linear(x, *weight, 256, 64, A, B, 0.5), W, A2, B2)
        return svft_banded(y, m, 2).float().square().mean()

    shapes = [(30, 512), (256, 8), (512, 8), (256, 4), (256, 4), (band_values,)]
    made = [drawn(*shape, seed=i, scale=0.1).bfloat16().cuda() for i, shape in enumerate(shapes)]
    results = []
    for run in (layer, torch.compile(layer, fullgraph=True)):
        leaves = [t.clone().requires_grad_() for t in made]
        value = run(*leaves)
        value.backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(results[0], results[1])
