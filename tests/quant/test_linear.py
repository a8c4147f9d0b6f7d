"""Layers that keep their weight in NF4: against the dequantised weight, in every type, in models."""

import pytest
import torch

from course_lib.memory import measure
from course_lib.quant import NF4Linear, dequantize, quantize_model, quantize_nf4
from course_lib.quant.blockwise import CHUNK

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def drawn(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize(("d_in", "d_out"), [(4096, 512), (1001, 700)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_never_more_than_one_chunk_is_dequantised(d_in, d_out, dtype):
    """Beside x, y and their gradients: one chunk in fp32, once more in 16 bits, and indices and scales."""
    layer = NF4Linear(quantize_nf4(drawn((d_out, d_in), dtype)), torch.zeros(d_out))
    x = drawn((2, d_in), dtype).requires_grad_()
    report = measure(layer, lambda: layer(x).sum().backward())
    outside = layer.quantized.nbytes + 4 * 5 * 2 * (d_in + d_out)
    assert report.peak - outside < 8.7 * CHUNK < 4 * d_in * d_out


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("d_in", "d_out"), [(128, 96), (70, 33), (64, 1)])
def test_the_layer_is_the_linear_layer_of_its_dequantised_weight(d_in, d_out, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(d_in, d_out, bias=bias)
    layer = NF4Linear.from_linear(linear)
    x = drawn((2, 5, d_in)).requires_grad_()
    copy = x.detach().clone().requires_grad_()
    expected = torch.nn.functional.linear(copy, layer.dense_weight(), linear.bias)
    got = layer(x)
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)
    g = drawn(got.shape, seed=1)
    got.backward(g)
    expected.backward(g)
    assert torch.allclose(x.grad, copy.grad, rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize(("d_in", "d_out"), [(512, 1000), (500, 1000)])  # rows of whole blocks, and not
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_more_is_lost_than_torch_loses(d_in, d_out, dtype, monkeypatch):
    """Output and gradient against float64, with W in many chunks: at most 4 × torch's own error."""
    from course_lib.quant import linear as module

    monkeypatch.setattr(module, "CHUNK", 1 << 14)
    layer = NF4Linear(quantize_nf4(drawn((d_out, d_in), dtype)))
    W, x, g = layer.dense_weight(), drawn((40, d_in), dtype, 1).requires_grad_(), drawn((40, d_out), dtype, 2)
    y = layer(x)
    y.backward(g)

    def error(value, exact):
        return float((value.double() - exact).norm() / exact.norm())

    out, grad = x.detach().double() @ W.double().T, g.double() @ W.double()
    assert error(y.detach(), out) <= 4 * error(x.detach() @ W.T, out)
    assert error(x.grad, grad) <= 4 * error(g @ W, grad)


def test_autocast_computes_in_its_type():
    layer, x = NF4Linear(quantize_nf4(drawn((96, 64)))), drawn((5, 64)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("double_quant", [False, True])
def test_another_type_of_model_leaves_the_scales_alone(double_quant):
    w = drawn((96, 64))
    layer = NF4Linear(quantize_nf4(w, double_quant=double_quant), torch.ones(96))
    exact = {name: value.clone() for name, value in layer.named_buffers()}
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        torch.nn.Sequential(layer).to(dtype)
        assert layer.dense_weight().dtype == layer.bias.dtype == layer(drawn((2, 64), dtype)).dtype == dtype
        assert all(torch.equal(value, exact[name]) for name, value in layer.named_buffers())
    assert torch.equal(layer.dense_weight(), dequantize(quantize_nf4(w, double_quant=double_quant)))
    assert layer.to("meta").dense_weight().is_meta


def test_no_rows_and_many_dimensions():
    layer = NF4Linear(quantize_nf4(drawn((33, 64))), torch.ones(33))
    assert layer(torch.empty(0, 64)).shape == (0, 33)
    assert layer(drawn((2, 3, 4, 64))).shape == (2, 3, 4, 33)
    assert torch.equal(layer(torch.zeros(64)), torch.ones(33))
    x = drawn((64, 6)).T.requires_grad_()  # not contiguous
    layer(x).sum().backward()
    assert x.grad.shape == (6, 64)


def test_chunks_do_not_change_the_result(monkeypatch):
    from course_lib.quant import linear as module

    torch.manual_seed(0)
    layer = NF4Linear.from_linear(torch.nn.Linear(128, 50))
    x = drawn((3, 128))
    whole = layer(x)
    monkeypatch.setattr(module, "CHUNK", 128 * 7)
    assert torch.allclose(layer(x), whole, rtol=1e-6, atol=1e-6)


def test_a_state_dict_brings_the_layer_back():
    torch.manual_seed(0)
    layer, other = (NF4Linear.from_linear(torch.nn.Linear(96, 32)) for _ in range(2))
    x = drawn((4, 96))
    assert not torch.equal(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))


def test_a_model_is_quantised_but_for_its_head():
    from course_lib.lm import load_base_model

    model, tokenizer = load_base_model()
    tokens = torch.tensor([tokenizer.encode("import numpy as np\n\ndef mean(values):\n")])
    with torch.no_grad():
        before = model(tokens)
        quantize_model(model)
        after = model(tokens)
    kinds = [type(module).__name__ for _, module in model.named_modules()]
    assert kinds.count("NF4Linear") == 28
    assert kinds.count("Linear") == 1
    assert 0 < float((after - before).norm() / before.norm()) < 0.25


def test_a_bad_weight_is_named_and_nothing_is_changed():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    model[1].weight.data[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"1: 1 of 4096 .*\(3, 4\)"):
        quantize_model(model)
    assert all(type(module) is torch.nn.Linear for module in model)


def test_layers_that_cannot_be_replaced_are_refused():
    from course_lib.adapters import LoRA, attach

    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    handle = attach(model, LoRA(2, targets=("1",)))
    with pytest.raises(ValueError, match="1: adapters hang on this layer"):
        quantize_model(model)
    assert type(model[0]) is torch.nn.Linear
    handle.detach()
    quantize_model(model)
    with pytest.raises(ValueError, match=r"out_proj: .*never calls it"):
        quantize_model(torch.nn.MultiheadAttention(64, 2))
    with pytest.raises(ValueError, match="the module that holds it"):
        quantize_model(torch.nn.Linear(64, 64))


def test_a_layer_with_two_names_stays_one():
    shared = torch.nn.Linear(64, 64)
    model = torch.nn.Sequential(shared, torch.nn.Tanh(), shared).eval()
    quantize_model(model)
    assert model[0] is model[2]
    assert isinstance(model[0], NF4Linear)
    assert not model[0].training


# -- adapters on it: that is QLoRA --


def test_an_adapter_trains_on_a_quantised_model_and_off_is_the_base():
    from course_lib.adapters import LoRA, attach
    from course_lib.lm import load_base_model, next_token_loss

    torch.manual_seed(0)
    model, _ = load_base_model()
    quantize_model(model)
    tokens = torch.randint(model.architecture.vocab, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bare = model(tokens)
    handle = attach(model, LoRA(4))
    assert torch.equal(model(tokens), bare)
    optimizer = torch.optim.AdamW(handle.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with handle.disable(), torch.no_grad():
        assert torch.equal(model(tokens), bare)
    handle.detach()
    with torch.no_grad():
        assert torch.equal(model(tokens), bare)


def test_merging_into_a_quantised_base_is_refused():
    from course_lib.adapters import LoRA, attach, merge

    model = torch.nn.Sequential(torch.nn.Linear(64, 64))
    quantize_model(model)
    attach(model, LoRA(2, targets=("0",)))
    with pytest.raises(ValueError, match="quantised"):
        merge(model)
