"""A LoRA on a map in NF4 is one operation where kernels run: same output, same gradients as its parts."""

import pytest
import torch

from course_lib.adapters import LoRA, attach
from course_lib.quant import NF4Linear, gpu, quantize_nf4

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def one_map(device, dtype, bias):
    torch.manual_seed(0)
    weight, offset = torch.randn(48, 128).to(dtype), torch.ones(48).to(dtype) if bias else None
    model = torch.nn.Sequential(NF4Linear(quantize_nf4(weight), offset)).to(device)
    handle = attach(model, LoRA(4, alpha=8, targets=("0",)))
    for parameter in handle.parameters():
        parameter.data.normal_(std=0.1)
    return model, list(handle.parameters())


def results(model, trained, x, g):
    x = x.clone().requires_grad_()
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *trained], g)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_output_and_gradients(device, rows, dtype, bias, monkeypatch):
    model, trained = one_map(device, dtype, bias)
    x = torch.randn(2, rows, 128).to(dtype).to(device)
    g = torch.randn(2, rows, 48).to(dtype).to(device)
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "has_kernels", lambda _: False)
        parts = results(model, trained, x, g)
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "has_kernels", lambda _: True)  # on a CPU the operation runs by its reference
        plain = gpu.product
        patch.setattr(gpu, "product", lambda *given: calls.append(len(given)) or plain(*given))
        fused = results(model, trained, x, g)
    assert calls == [5], "W, A and B go into one operation"
    for ours, other in zip(fused, parts, strict=True):
        apart = (ours.double() - other.double()).norm() / other.double().norm()
        assert apart < 8 * torch.finfo(dtype).eps
