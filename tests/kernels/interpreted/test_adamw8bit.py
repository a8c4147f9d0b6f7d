"""The 8-bit AdamW step, against PyTorch's and float64."""

import pytest
import torch

from course_lib.kernels.adamw8bit import BLOCK, adamw8bit, reference
from course_lib.quant.codes import boundaries, dynamic_code, unsigned_dynamic_code
from tests.kernels.oracle import close

TYPES = [torch.float32, torch.bfloat16, torch.float16]
TABLES = tuple(t for code in (dynamic_code(), unsigned_dynamic_code()) for t in (code, boundaries(code)))
SETTINGS = (1e-2, 0.9, 0.999, 1e-8, 0.1)


def start(n, dtype, guard=0):
    """Weights, and averages at zero, each in the midst of ``guard`` numbers that must not change."""
    generator = torch.Generator().manual_seed(n)
    blocks = -(-n // BLOCK)
    whole = [
        torch.nn.functional.pad(torch.randn(n, generator=generator).to(dtype), (guard, guard), value=7.0)
    ]
    for _ in range(2):
        whole += [
            torch.full((n + 2 * guard,), 165, dtype=torch.uint8),
            torch.full((blocks + 2 * guard,), 7.0),
        ]
    inner = [part[guard : len(part) - guard] for part in whole]
    for part in inner[1:]:
        part.zero_()
    return whole, inner


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", [1, 255, 256, 1031, 3000])
def test_three_steps(n, dtype):
    """Weights within four times PyTorch's loss; indices those of PyTorch, but where a number lies between."""
    guard = 64
    whole, ours = start(n, dtype, guard)
    (_, theirs), (_, exact) = start(n, dtype), start(n, torch.float64)
    exact[0].copy_(theirs[0])
    exact[2], exact[4] = exact[2].double(), exact[4].double()
    before = [part.clone() for part in whole]
    wide = tuple(table.double() for table in TABLES)
    for step in range(1, 4):
        g = torch.randn(n, generator=torch.Generator().manual_seed(step)).to(dtype)
        adamw8bit(ours[0], g, *ours[1:], *TABLES, *SETTINGS, step)
        reference(theirs[0], g, *theirs[1:], *TABLES, *SETTINGS, step)
        reference(exact[0], g.double(), *exact[1:], *wide, *SETTINGS, step)
        close(ours[0], theirs[0], exact[0])
        for mine, other in zip(ours[1::2], theirs[1::2], strict=True):
            steps = (mine.int() - other.int()).abs()
            assert steps.max() <= 1
            assert steps.ne(0).float().mean() < 1e-2
        for mine, other in zip(ours[2::2], theirs[2::2], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=0)
    for part, old in zip(whole, before, strict=True):
        assert torch.equal(part[:guard], old[:guard])
        assert torch.equal(part[len(part) - guard :], old[len(old) - guard :])


def test_a_variance_that_is_not_zero_is_never_stored_as_zero():
    _, (w, m, ms, v, vs) = start(256, torch.float32)
    g = torch.full((256,), 1e-12)
    g[0], g[5] = 1.0, 0.0
    adamw8bit(w, g, m, ms, v, vs, *TABLES, *SETTINGS, 1)
    assert v[5] == 0
    assert (v[torch.arange(256) != 5] > 0).all()


def test_a_gradient_that_is_nan_is_seen_in_the_scale():
    _, (w, m, ms, v, vs) = start(600, torch.float32)
    g = torch.ones(600)
    g[300] = float("nan")
    adamw8bit(w, g, m, ms, v, vs, *TABLES, *SETTINGS, 1)
    assert ms.isnan().tolist() == [False, True, False]
    assert w.isnan().sum() == 1
