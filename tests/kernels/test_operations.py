"""The operations as torch sees them: references, gradients, torch.compile, a machine without Triton."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

from course_lib.kernels import linear_cross_entropy, lora_linear, nf4_dequantize, nf4_linear, nf4_quantize
from course_lib.quant import NF4Linear, dequantize, quantize_nf4
from tests.kernels.oracle import middles, quantised


def test_the_room_needs_no_triton():
    code = (
        "import sys; sys.modules['triton'] = None; import course_lib.kernels as k; print(len(k.OPERATIONS))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) >= 8


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("n", [1, 64, 1000])
def test_nf4_references_are_the_cpu_path_s_to_the_bit(n, double):
    weight, q, w = quantised((n,), torch.float32, double)
    assert torch.equal(nf4_dequantize(*weight, n, 64, torch.float32), dequantize(q))
    plain = quantize_nf4(w, 64, False)
    packed, scales = nf4_quantize(w, middles(), 64)
    assert torch.equal(packed, plain.packed)
    assert torch.equal(scales, plain.scales)


def test_nf4_linear_is_the_layer_with_its_lora():
    weight, q, _ = quantised((24, 128), torch.float32)
    generator = torch.Generator().manual_seed(0)
    x, A, B = (torch.randn(shape, generator=generator) for shape in ((5, 128), (24, 4), (128, 4)))
    expected = NF4Linear(q)(x) + 0.5 * (x @ B) @ A.T
    torch.testing.assert_close(nf4_linear(x, *weight, 24, 64, A, B, 0.5), expected)


@pytest.mark.parametrize("run", ["nf4", "nf4 with LoRA", "LoRA", "cross-entropy"])
def test_gradients_in_float64(run):
    """gradcheck: finite differences of the operation itself."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    weight, _, _ = quantised((6, 64), torch.float32)
    weight = (*weight[:4], *(table.double() for table in weight[4:]))
    targets = torch.tensor([0, 4, -100])
    calls = {
        "nf4": (lambda x: nf4_linear(x, *weight, 6, 64), [leaf(3, 64)]),
        "nf4 with LoRA": (
            lambda x, A, B: nf4_linear(x, *weight, 6, 64, A, B, 0.5), [leaf(3, 64), leaf(6, 2), leaf(64, 2)]
        ),
        "LoRA": (
            lambda x, A, B: lora_linear(x, torch.ones(6, 5).double(), A, B, 0.5),
            [leaf(3, 5), leaf(6, 2), leaf(5, 2)],
        ),
        "cross-entropy": (lambda h, w: linear_cross_entropy(h, w, targets, 2), [leaf(3, 4), leaf(5, 4)]),
    }  # fmt: skip
    function, inputs = calls[run]
    assert torch.autograd.gradcheck(function, inputs)


def test_torch_s_own_check_of_operations():
    weight, _, w = quantised((6, 64), torch.float32)
    x, A, B = torch.randn(3, 64), torch.randn(6, 2), torch.randn(64, 2)
    for leaf in (x, A, B):
        leaf.requires_grad_()
    opcheck(nf4_quantize, (w.view(-1), middles(), 64))
    opcheck(nf4_dequantize, (*weight, 384, 64, torch.bfloat16))
    opcheck(nf4_linear, (x, *weight, 6, 64, A, B, 0.5))
    opcheck(lora_linear, (x, torch.randn(6, 64), A, B, 0.5))
    hidden, head = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    operation = torch.ops.course.linear_cross_entropy.default
    opcheck(operation, (hidden, head, torch.tensor([0, 8, -100, 3, 3]), 2, True, True))


def test_a_compiled_model_calls_them():
    """Under torch.compile, without breaks of the graph: the same loss and gradients."""
    weight, _, _ = quantised((6, 64), torch.float32)
    head, targets = torch.randn(9, 6), torch.tensor([0, 8, 3])

    def loss(x, A, B):
        return linear_cross_entropy(nf4_linear(x, *weight, 6, 64, A, B), head, targets, 2)

    made = [torch.randn(shape) for shape in ((3, 64), (6, 2), (64, 2))]
    results = []
    for run in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        leaves = [t.clone().requires_grad_() for t in made]
        value = run(*leaves)
        value.backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(results[0], results[1])


def test_cross_entropy_is_torch_s_and_keeps_no_logits():
    hidden, head = torch.randn(40, 8, requires_grad=True), torch.randn(70, 8)
    targets = torch.randint(0, 70, (40,))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        kept: list[torch.Size] = []
        loss = linear_cross_entropy(hidden, head, targets, 16)
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ head.T, targets))
    assert torch.Size([40, 8]) in kept
    assert not any(70 in shape and shape != head.shape for shape in kept)


@pytest.mark.parametrize(
    ("hidden", "head", "targets", "match"),
    [
        ((4, 8), (9, 7), [0, 1, 2, 3], "must fit"),
        ((4, 8), (9, 8), [0, 1, 2], "must fit"),
        ((4, 8), (9, 8), [0, 1, 2, 9], "0 … 8"),
        ((4, 8), (9, 8), [0, 1, 2, -1], "0 … 8"),
    ],
)
def test_cross_entropy_refuses_what_does_not_fit(hidden, head, targets, match):
    with pytest.raises(ValueError, match=match):
        linear_cross_entropy(torch.zeros(hidden), torch.zeros(head), torch.tensor(targets))


def test_all_targets_left_out():
    hidden = torch.randn(4, 8, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.randn(9, 8), torch.full((4,), -100))
    loss.backward()
    assert loss == 0
    assert hidden.grad.eq(0).all()
