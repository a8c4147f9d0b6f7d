"""SVFT's products without a dense M, against float64."""

import pytest
import torch

from course_lib.kernels import svft_banded, svft_sparse
from course_lib.kernels.svft_banded import band
from course_lib.kernels.svft_banded import reference as dense_band
from course_lib.kernels.svft_sparse import layout
from tests.kernels.oracle import close

TYPES = [torch.float32, torch.bfloat16, torch.float16]


def compared(dtype, guarded, y, values, ours, plain):
    """Output and both gradients: the kernel's, torch's in the same type, and float64's."""

    def run(kind, function):
        a, b = (t.to(dtype).to(kind).requires_grad_() for t in (y, values))
        out = function(a, b)
        (out * torch.linspace(0.5, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        return out.detach(), a.grad, b.grad

    exact, torchs = run(torch.float64, plain), run(dtype, plain)
    with guarded():
        got = run(dtype, ours)
    for a, b, c in zip(got, torchs, exact, strict=True):
        close(a, b, c)


def drawn(tokens, n, cells):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(tokens, n, generator=generator), torch.randn(cells, generator=generator)


def product(y, values, cells):
    """y Mᵀ by a dense M, whatever the type, gradients by autograd."""
    n = y.shape[1]
    M = torch.zeros(n, n, dtype=y.dtype).index_put((cells[0], cells[1]), values)
    return y @ M.T


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "n", "d"), [(1, 1, 0), (3, 7, 2), (5, 6, 5), (33, 70, 3)])
def test_banded(tokens, n, d, dtype, guarded):
    cells = band(n, d)
    y, values = drawn(tokens, n, cells.shape[1])
    compared(dtype, guarded, y, values, lambda a, b: svft_banded(a, b, d), lambda a, b: product(a, b, cells))


@pytest.mark.parametrize(("n", "d"), [(1, 0), (2, 1), (5, 2), (9, 8), (12, 7)])
def test_every_cell_of_the_band_is_found(n, d):
    """Numbered cells come out where the dense matrix has them, both ways."""
    cells = band(n, d)
    values = 1.0 + torch.arange(cells.shape[1])
    y = torch.eye(n)
    assert torch.equal(svft_banded(y, values, d), dense_band(y, values, d))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "n", "count"), [(1, 1, 1), (3, 9, 5), (17, 70, 300), (4, 8, 64)])
def test_sparse(tokens, n, count, dtype, guarded):
    """Some rows hold no cell at all, some many."""
    picked = torch.randperm(n * n, generator=torch.Generator().manual_seed(count))[:count].sort().values
    cells = torch.stack([picked // n, picked % n])
    y, values = drawn(tokens, n, count)
    where = layout(cells, n)
    compared(
        dtype, guarded, y, values, lambda a, b: svft_sparse(a, b, *where), lambda a, b: product(a, b, cells)
    )


def test_a_frozen_side_gets_no_gradient():
    y, values = drawn(3, 6, 16)
    out = svft_banded(y, values.requires_grad_(), 1)
    out.sum().backward()
    assert y.grad is None
    assert values.grad is not None
    (grad,) = torch.autograd.grad(svft_banded(y.requires_grad_(), values.detach(), 1).sum(), y)
    assert grad.shape == y.shape
