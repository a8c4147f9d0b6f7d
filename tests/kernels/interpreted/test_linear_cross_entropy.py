"""The last layer and its loss, against float64."""

import pytest
import torch
import torch.nn.functional as F

from course_lib.kernels import linear_cross_entropy
from course_lib.kernels.linear_cross_entropy import losses_in_place, reference
from tests.kernels.oracle import close

TYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 2), (3, 97), (2, 4096), (2, 9001)])
def test_losses_and_slopes_of_a_row(tokens, vocabulary, dtype, guarded):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(tokens, vocabulary, generator=generator)).to(dtype)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    wide, slopes, torchs = logits.double(), logits.clone(), logits.clone()
    with guarded():
        losses = losses_in_place(slopes, targets, gradient=True)
    exact = reference(wide, targets, gradient=True)
    close(losses, reference(torchs, targets, gradient=True), exact)
    close(slopes, torchs, wide)


def test_rows_between_rows_stay_as_they_are():
    """Logits may be a view of something wider."""
    whole = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
    before = whole.clone()
    losses_in_place(whole[:, :33], torch.tensor([1, -100, 2, 32]), gradient=True)
    assert torch.equal(whole[:, 33:], before[:, 33:])
    assert whole[1, :33].eq(0).all()


def test_extreme_logits():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [88.0, 89.0, float("-inf")]])
    targets = torch.tensor([1, 2, 0])
    expected = F.cross_entropy(logits.double(), targets, reduction="none")
    got = losses_in_place(logits, targets, gradient=True)
    torch.testing.assert_close(got.double(), expected)
    assert logits.isfinite().all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_loss_and_gradients_against_float64(chunk, dtype):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(7, 24, generator=generator), torch.randn(50, 24, generator=generator) / 4
    targets = torch.randint(0, 50, (7,), generator=generator)
    targets[2] = -100

    def gradients(kind, run):
        h, w = (t.to(dtype).to(kind).requires_grad_() for t in (hidden, weight))
        loss = run(h, w)
        (3 * loss).backward()
        return loss.detach(), h.grad, w.grad

    plain = lambda h, w: F.cross_entropy((h @ w.T).to(max_type(h)), targets)  # noqa: E731
    exact = gradients(torch.float64, plain)
    torchs = gradients(dtype, plain)
    ours = gradients(dtype, lambda h, w: linear_cross_entropy(h, w, targets, chunk))
    for a, b, c in zip(ours, torchs, exact, strict=True):
        close(a, b, c)


def max_type(h):
    return torch.float64 if h.dtype == torch.float64 else torch.float32
