"""Adapters on a base in NF4: QLoRA, QPiSSA's quantised rest, merging that says what it loses, files."""

import copy

import pytest
import torch
from torch import nn

from course_lib.adapters import (
    LoRA,
    MiLoRA,
    PiSSA,
    attach,
    attached,
    load_adapter,
    merge,
    merge_quantized,
    quantize_rest,
    save_adapter,
)
from course_lib.catalog import Architecture
from course_lib.lm import Llama, load_base_model, next_token_loss
from course_lib.quant import NF4Linear, quantize_model

from .examples import METHODS, NO_OPS, name

ARCH = Architecture(
    name="toy",
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate=96,
    vocab=37,
    max_length=32,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Llama(ARCH)


@pytest.fixture
def tokens():
    return torch.randint(37, (2, 9), generator=torch.Generator().manual_seed(1))


def learn(handle, scale=0.1):
    generator = torch.Generator().manual_seed(5)
    for parameter in handle.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * scale
    return handle


def distance(model, reference):
    """‖W' − W‖ over all maps of the blocks, W' with the adapter."""
    total = 0.0
    for path, linear in reference.named_modules():
        if isinstance(linear, nn.Linear) and "layers" in path:
            mine = model.get_submodule(path)
            weight = mine.dense_weight() if isinstance(mine, NF4Linear) else mine.weight
            if "adapters" in mine._modules:
                weight = weight + mine.adapters["default"].delta()
            total += float((weight - linear.weight).detach().square().sum())
    return total**0.5


def test_qlora_starts_as_the_quantised_base_and_learns(model, tokens):
    quantize_model(model)
    before = model(tokens)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    handle = attach(model, LoRA(4))
    assert torch.equal(model(tokens), before)
    optimizer = torch.optim.AdamW(handle.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = next_token_loss(model(tokens), tokens)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    handle.detach()
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in kept.items())


@pytest.mark.parametrize("spec", METHODS, ids=name)
def test_every_method_sits_on_a_quantised_base(spec, model, tokens, tmp_path):
    """An exact no-op at its start (but for papers' starts), a gradient for all, off bit for bit, a file."""
    quantize_model(model)
    before = model(tokens)
    handle = attach(model, spec)
    assert torch.equal(model(tokens), before) == (spec in NO_OPS)
    learn(handle, 0.01)
    next_token_loss(model(tokens), tokens).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in handle.parameters())
    expected = model(tokens)
    assert not torch.equal(expected, before)
    save_adapter(handle, tmp_path)
    with handle.disable():
        assert torch.equal(model(tokens), before)
    handle.detach()
    assert torch.equal(model(tokens), before)
    load_adapter(model, tmp_path)
    torch.testing.assert_close(model(tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_base_with_an_fp32_adapter(model, tokens, dtype):
    quantize_model(model.to(dtype))
    before = model(tokens)
    handle = attach(model, LoRA(4, dtype=torch.float32))
    assert torch.equal(model(tokens), before)
    learn(handle)
    next_token_loss(model(tokens), tokens).backward()
    assert {p.grad.dtype for p in handle.parameters()} == {torch.float32}


def test_gradients_of_an_adapter_are_those_on_the_dequantised_base(model, tokens):
    quantize_model(model)
    dense = copy.deepcopy(model)
    for path, module in list(dense.named_modules()):
        if isinstance(module, NF4Linear):
            linear = nn.Linear(module.in_features, module.out_features, bias=False)
            linear.weight.data = module.dense_weight()
            dense.get_submodule(path.rpartition(".")[0])._modules[path.rpartition(".")[2]] = linear
    grads = []
    for one in (model, dense):
        torch.manual_seed(3)
        handle = learn(attach(one, LoRA(4)))
        next_token_loss(one(tokens), tokens).backward()
        grads.append([p.grad for p in handle.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_quantised_rest_of_pissa_is_nearer_to_w():
    """On trained weights: less error than Q(W), less still with LoftQ's rounds; MiLoRA's rest gains least."""
    base, _ = load_base_model()
    plain = quantize_model(copy.deepcopy(base))
    errors = {"plain": distance(plain, base)}
    for method, spec, rounds in (("PiSSA", PiSSA(16), 1), ("LoftQ", PiSSA(16), 4), ("MiLoRA", MiLoRA(16), 1)):
        model = copy.deepcopy(base)
        quantize_rest(model, spec, rounds=rounds)
        errors[method] = distance(model, base)
    assert errors["LoftQ"] < errors["PiSSA"] < 0.95 * errors["plain"]
    assert errors["PiSSA"] < errors["MiLoRA"] < 1.02 * errors["plain"]


def test_the_rest_s_adapter_is_an_ordinary_lora(model, tokens, tmp_path):
    handle = learn(quantize_rest(model, PiSSA(4)), 0.01)
    expected = model(tokens)
    save_adapter(handle, tmp_path / "a")
    handle.detach()
    assert not torch.equal(model(tokens), expected)
    load_adapter(model, tmp_path / "a")
    assert torch.equal(model(tokens), expected)


def test_a_bad_weight_is_named_and_nothing_is_split(model):
    last = [path for path, module in model.named_modules() if path.endswith("down_proj")][-1]
    model.get_submodule(last).weight.data[3, 4] = float("inf")
    with pytest.raises(ValueError, match=last):
        quantize_rest(model, PiSSA(4))
    assert not any(isinstance(module, NF4Linear) for module in model.modules())
    assert attached(model) == ()


def test_what_cannot_be_split_is_refused(model):
    quantize_model(model)
    with pytest.raises(ValueError, match=r"plain nn\.Linear"):
        quantize_rest(model, PiSSA(4))
    with pytest.raises(ValueError, match="rounds"):
        quantize_rest(model, PiSSA(4), rounds=0)
    assert attached(model) == ()


@pytest.mark.parametrize("requantize", [False, True])
def test_merging_reports_what_it_loses(model, tokens, requantize):
    quantize_model(model)
    learn(attach(model, LoRA(4, targets=("q", "down"))))
    expected, maps = model(tokens), {"q_proj", "down_proj"}
    with pytest.raises(ValueError, match="merge_quantized"):
        merge(model)
    weights = {path: m.dense_weight() + m.adapters["default"].delta() for path, m in model.named_modules()
               if isinstance(m, NF4Linear) and "adapters" in m._modules}  # fmt: skip
    report = merge_quantized(model, requantize)
    assert attached(model) == ()
    assert {path.rpartition(".")[2] for path in report.error} == maps
    for path, wanted in weights.items():
        module = model.get_submodule(path)
        assert isinstance(module, NF4Linear) == requantize
        got = module.dense_weight() if requantize else module.weight
        lost = float((got - wanted).detach().norm() / wanted.detach().norm())
        assert report.error[path] == pytest.approx(lost, rel=1e-3, abs=1e-7)
    if requantize:
        assert 0.02 < max(report.error.values()) < 0.2
        assert "lost" in str(report)
    else:
        torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-5)


def test_merging_needs_a_quantised_base_an_adapter_and_finite_numbers(model):
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_quantized(model, False)
    handle = attach(model, LoRA(4))
    with pytest.raises(ValueError, match="not quantised"):
        merge_quantized(model, True)
    handle.detach()
    quantize_model(model)
    handle = learn(attach(model, LoRA(4)))
    next(iter(handle.parameters())).data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        merge_quantized(model, False)
    assert attached(model) == ("default",)


def test_an_adapter_knows_its_quantised_base(model, tokens, tmp_path):
    plain = copy.deepcopy(model)
    quantize_model(model)
    handle = learn(attach(model, LoRA(4)))
    expected = model(tokens)
    save_adapter(handle, tmp_path / "a")
    fresh = quantize_model(copy.deepcopy(plain))
    load_adapter(fresh, tmp_path / "a")
    assert torch.equal(fresh(tokens), expected)
    with pytest.raises(ValueError):
        load_adapter(plain, tmp_path / "a")
    load_adapter(plain, tmp_path / "a", any_base=True)


def test_a_quantised_model_s_state_dict(model, tokens, tmp_path):
    fresh = quantize_model(Llama(ARCH))
    quantize_model(model)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    fresh.load_state_dict(torch.load(tmp_path / "m.pt"))
    assert torch.equal(fresh(tokens), model(tokens))


@pytest.mark.peer
def test_qlora_of_a_hugging_face_model(tokens):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96, vocab_size=37, max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    quantize_model(model)
    assert sum(isinstance(module, NF4Linear) for module in model.modules()) == 14
    before = model(tokens).logits
    handle = attach(model, LoRA(4))
    assert torch.equal(model(tokens).logits, before)
    model(tokens, labels=tokens).loss.backward()
    assert all(p.grad is not None for p in handle.parameters())
    report = merge_quantized(model, requantize=True)
    assert len(report.error) == 14
    assert model.generate(tokens, max_new_tokens=3, do_sample=False).shape == (2, 12)
