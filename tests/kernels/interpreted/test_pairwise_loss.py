"""The loss of pairs of rewards and its gradients, against float64."""

import pytest
import torch
import torch.nn.functional as F

from course_lib.kernels import pairwise_loss
from course_lib.kernels.pairwise_loss import reference
from tests.kernels.oracle import close

TYPES = [torch.float32, torch.bfloat16, torch.float16]
GAPS = [0.0, 1e-6, 0.1, 1.0, 8.0, 40.0, 80.0, 300.0]


def drawn(n, dtype):
    generator = torch.Generator().manual_seed(n)
    rewards = [(4 * torch.randn(n, generator=generator)).to(dtype) for _ in range(2)]
    return rewards, torch.rand(n, generator=generator).to(dtype), torch.rand(n, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", [1, 17, 1025])
@pytest.mark.parametrize(("margined", "labelled", "centring"), [(0, 0, 0.0), (1, 0, 0.01), (0, 1, 0.5)])
def test_losses_and_gradients(n, dtype, margined, labelled, centring, guarded):
    rewards, margin, label = drawn(n, dtype)
    margin, label = margin if margined else None, label if labelled else None

    def run(kind, function):
        chosen, rejected = (r.to(kind).requires_grad_() for r in rewards)
        options = [None if t is None else t.to(kind) for t in (margin, label)]
        losses = function(chosen, rejected, *options, centring)
        (losses * torch.linspace(0.5, 2, n, dtype=losses.dtype)).sum().backward()
        return losses.detach(), chosen.grad, rejected.grad

    exact, torchs = run(torch.float64, reference), run(dtype, reference)
    with guarded():
        ours = run(dtype, pairwise_loss)
    for a, b, c in zip(ours, torchs, exact, strict=True):
        close(a, b, c)


def test_each_loss_is_exact_in_relative_terms_however_small():
    gap = torch.tensor([*GAPS, *(-g for g in GAPS)])
    got = pairwise_loss(gap, torch.zeros_like(gap))
    exact = -F.logsigmoid(gap.double())
    seen = exact > 1e-37  # below lies what fp32 has no normal number for
    relative = ((got.double() - exact) / exact)[seen].abs()
    assert relative.max() < 1e-5
    assert got.isfinite().all()


def test_gradients_of_extreme_gaps_are_finite():
    chosen = torch.tensor([1e4, -1e4, 3e38, -3e38], requires_grad=True)
    pairwise_loss(chosen, torch.zeros(4)).sum().backward()
    assert chosen.grad.tolist() == [0.0, -1.0, 0.0, -1.0]
