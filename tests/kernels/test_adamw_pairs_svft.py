"""8-bit step, pairs of rewards, SVFT's products as torch sees them: registered, differentiable, compiled."""

import pytest
import torch

from course_lib.adapters import SVFT
from course_lib.kernels import adamw8bit, pairwise_loss, svft_banded, svft_sparse
from course_lib.kernels.svft_banded import band
from course_lib.kernels.svft_sparse import layout
from course_lib.quant import AdamW8bit
from course_lib.quant.codes import boundaries, dynamic_code, unsigned_dynamic_code
from course_lib.reward import pairwise_loss as whole_loss
from course_lib.reward.loss import _by_kernel


def drawn(*shape, dtype=torch.float32, seed=0, grad=False):
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return made.requires_grad_(grad)


def states(n):
    """Averages of 8 bits at zero, and the tables they need."""
    codes = (dynamic_code(), unsigned_dynamic_code())
    kept = [t for _ in range(2) for t in (torch.zeros(n, dtype=torch.uint8), torch.zeros(-(-n // 256)))]
    return [*kept, *(t for code in codes for t in (code, boundaries(code)))]


def arguments(dtype=torch.float32):
    """One call of every differentiable operation."""
    cells = band(10, 2)
    y, values = drawn(6, 10, dtype=dtype, grad=True), drawn(cells.shape[1], dtype=dtype, grad=True)
    pair = [drawn(10, dtype=dtype, seed=seed, grad=True) for seed in (1, 2)]
    margin, label = drawn(10, dtype=dtype, seed=3).abs(), drawn(10, dtype=dtype, seed=4).sigmoid()
    return {
        pairwise_loss: (*pair, margin, label, 0.1),
        svft_banded: (y, values, 2),
        svft_sparse: (y, values, *layout(cells, 10)),
    }


OPERATIONS = list(arguments())
STEP = (1e-3, 0.9, 0.999, 1e-8, 0.01, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op._name)
def test_torch_s_own_check_passes(operation, dtype):
    """Schema, fake tensors, autograd registration, and tracing with dynamic shapes."""
    torch.library.opcheck(operation, arguments(dtype)[operation])


def test_torch_s_own_check_of_the_step():
    torch.library.opcheck(adamw8bit, (drawn(300), drawn(300, seed=1), *states(300), *STEP))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op._name)
def test_gradients_are_those_of_finite_differences(operation):
    assert torch.autograd.gradcheck(lambda *inputs: operation(*inputs), arguments(torch.float64)[operation])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op._name)
def test_compiled_code_gives_the_same_without_a_break(operation):
    """Forward and backward are traced whole; the operation stands in the graph as it is."""

    def run(function):
        given = arguments()[operation]
        out = function(*given)
        leaves = [t for t in given if isinstance(t, torch.Tensor) and t.requires_grad]
        return out.detach(), *torch.autograd.grad(out.square().sum(), leaves)

    compiled = torch.compile(lambda *inputs: operation(*inputs) * 1.0, fullgraph=True, backend="aot_eager")
    for got, expected in zip(run(compiled), run(operation), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_step_changes_its_arguments_under_compile_too():
    def run(function):
        weights, kept = drawn(300), states(300)
        function(weights, drawn(300, seed=1), *kept, *STEP)
        return weights, *kept[:4]

    compiled = torch.compile(lambda *inputs: adamw8bit(*inputs), fullgraph=True, backend="aot_eager")
    for got, expected in zip(run(compiled), run(adamw8bit), strict=True):
        assert torch.equal(got, expected)


def test_the_step_is_the_optimiser_s():
    """Three steps of ``AdamW8bit`` on a CPU; a byte may differ where a number lies between two values."""
    ours, kept = drawn(700), states(700)
    theirs = torch.nn.Parameter(ours.clone())
    optimiser = AdamW8bit([theirs], lr=1e-2, weight_decay=0.1)
    for step in range(1, 4):
        theirs.grad = drawn(700, seed=step)
        optimiser.step()
        adamw8bit(ours, theirs.grad, *kept, 1e-2, 0.9, 0.999, 1e-8, 0.1, step)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)
    state = optimiser.state[theirs]
    for got, name in zip(kept[:4:2], ("exp_avg", "exp_avg_sq"), strict=True):
        assert (got.int() - state[name].int()).abs().max() <= 1


def test_the_losses_are_the_reward_room_s():
    chosen, rejected = drawn(20), drawn(20, seed=1)
    label, margin = torch.rand(20), torch.rand(20)
    for keywords in ({}, {"margin": margin}, {"label": label}, {"centring": 0.3}):
        expected = whole_loss(chosen, rejected, reduction="none", **keywords)
        torch.testing.assert_close(pairwise_loss(chosen, rejected, **keywords), expected)


def test_a_band_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="no 5 numbers"):
        svft_banded(drawn(2, 4), drawn(5), 1)


def test_cells_out_of_order_are_refused():
    with pytest.raises(ValueError, match="order of reading"):
        layout(torch.tensor([[1, 0], [0, 1]]), 2)


@pytest.mark.parametrize("pattern", ["banded", "random", "top_k"])
def test_an_adapter_s_cells_give_the_same_by_the_operations(pattern):
    torch.manual_seed(0)
    adapter = SVFT(pattern, off_diagonals=2).make("q", torch.nn.Linear(12, 9))
    adapter.m.data.normal_()
    assert adapter.band == (2 if pattern == "banded" else None)
    y = drawn(5, 9)
    torch.testing.assert_close(adapter._by_kernels(y, adapter.values()), y @ adapter.M().T)


def test_a_reward_loss_of_any_shape_goes_through_the_operation():
    chosen, rejected = drawn(3, 4), drawn(4, 3, seed=1).T
    expected = whole_loss(chosen, rejected, label=0.8, reduction="none")
    got = _by_kernel(chosen, rejected, torch.tensor(0.0), torch.tensor(0.8), 0.0)
    torch.testing.assert_close(got, expected)
