"""The way through the kernels: on a CPU by their references, which are to give what the CPU's own path gives;
on a CUDA device by themselves.
"""

import pytest
import torch
from torch import nn

from course_lib.adapters import LoRA, attach
from course_lib.lm import Llama, next_token_loss
from course_lib.memory import measure, predict
from course_lib.quant import (
    AdamW8bit,
    NF4Linear,
    PagedAdamW,
    dequantize,
    gpu,
    quantize_model,
    quantize_nf4,
)

from ..memory.test_memory import FIVE_MILLION

SHAPES = [(64, 128), (33, 64), (7, 100), (300,), (1, 1), (0, 5)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]


def drawn(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """Where kernels run, or their references in their place."""
    if request.param == "cpu":
        monkeypatch.setattr(gpu, "has_kernels", lambda tensor: tensor.dtype != torch.float64)
    return torch.device(request.param)


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_are_the_same(shape, dtype, double_quant, device, monkeypatch):
    w = drawn(shape, dtype)
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "has_kernels", lambda _: False)
        expected = quantize_nf4(w, double_quant=double_quant)
        values = dequantize(expected)
    q = quantize_nf4(w.to(device), double_quant=double_quant)
    assert torch.equal(q.packed.cpu(), expected.packed)
    if device.type == "cpu":  # the mean scale is summed in another order on a GPU
        assert torch.equal(q.scales, expected.scales)
        assert torch.equal(dequantize(q), values)
        assert torch.equal(dequantize(q, out=torch.empty_like(w)), values)
    torch.testing.assert_close(dequantize(q).cpu(), values, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_is_refused_with_its_place(value, device):
    w = drawn((9, 70), seed=3)
    w[7, 3] = value
    with pytest.raises(ValueError, match=r"the first at \(7, 3\)"):
        quantize_nf4(w.to(device))


@pytest.mark.parametrize("rows", [(2, 3), (200,), (0,)])
@pytest.mark.parametrize(("d_in", "d_out"), [(128, 96), (70, 33)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_output_and_gradient_of_a_layer(d_in, d_out, dtype, rows, device):
    layer = NF4Linear(quantize_nf4(drawn((d_out, d_in), dtype)), torch.ones(d_out, dtype=dtype)).to(device)
    x = drawn((*rows, d_in), dtype, 1).to(device).requires_grad_()
    g = drawn((*rows, d_out), dtype, 2).to(device)
    y = layer(x)
    y.backward(g)
    W = layer.dense_weight().double()
    exact = x.detach().double() @ W.T + 1, g.double() @ W
    plain = (x.detach() @ layer.dense_weight().T + 1).double(), (g @ layer.dense_weight()).double()
    for got, wanted, torch_s in zip((y.detach(), x.grad), exact, plain, strict=True):
        assert got.dtype == dtype
        allowed = 4 * float((torch_s - wanted).norm()) + 1e-6 * float(wanted.norm())
        assert float((got.double() - wanted).norm()) <= allowed


@pytest.mark.parametrize("make", [AdamW8bit, lambda p: PagedAdamW(p, bits=8)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_of_8_bit_adamw(make, dtype, device, monkeypatch):
    """Two steps: the second one reads what the first one packed."""
    found = []
    for kernels in (True, False):
        with monkeypatch.context() as patch:
            if not kernels:
                patch.setattr(gpu, "has_kernels", lambda _: False)
            p = nn.Parameter(drawn((37, 65), dtype).to(device if kernels else "cpu"))
            optimizer = make([p])
            for seed in (1, 2):
                p.grad = drawn((37, 65), dtype, seed).to(p.device)
                optimizer.step()
            found.append((p.detach().cpu().float(), optimizer.state[p]["exp_avg"].cpu()))
    (ours, bytes_), (theirs, expected) = found
    torch.testing.assert_close(ours, theirs, rtol=2 * torch.finfo(dtype).eps + 1e-5, atol=1e-5)
    assert float((bytes_ != expected).float().mean()) < 0.01


def test_qlora_learns(device):
    torch.manual_seed(0)
    model = quantize_model(Llama(FIVE_MILLION.with_sizes(hidden=64, head_dim=16, layers=2, vocab=300)))
    model.to(device)
    handle, tokens = attach(model, LoRA(4)), torch.randint(300, (2, 20), device=device)
    optimizer, losses = AdamW8bit(handle.parameters(), lr=1e-2), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = next_token_loss(model(tokens), tokens)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("optimizer", [AdamW8bit, lambda p: PagedAdamW(p, bits=8)])
def test_constants_are_the_kernels_own(optimizer, device):
    """What stays on the device, to the byte, with the tables that kernels read."""
    if device.type == "cpu" and optimizer is not AdamW8bit:
        pytest.skip("nothing is outside a CPU without a file")
    model = quantize_model(Llama(FIVE_MILLION)).to(device)
    handle = attach(model, LoRA(4))
    made, tokens = optimizer(handle.parameters()), torch.zeros(1, 9, dtype=torch.long, device=device)

    def step():
        made.zero_grad()
        next_token_loss(model(tokens), tokens).backward()
        made.step()

    step()
    name = "adamw-8bit" if optimizer is AdamW8bit else "adamw-8bit-paged"
    found = measure(model, step)
    wanted = predict(FIVE_MILLION, LoRA(4), seq_len=9, quantization="nf4-dq", optimizer=name, device="cuda")
    for part in ("weights", "quantization_constants", "adapters", "adam_mean", "optimizer_other"):
        assert wanted[part] == found[part]
    assert wanted.paged == found.paged
