"""8-bit and paged AdamW: against torch's own, resuming to the bit, and what they keep where."""

import copy

import pytest
import torch
from torch import nn

from course_lib.quant import AdamW8bit, PagedAdamW, adamw, dynamic_code, unsigned_dynamic_code

OPTIMIZERS = {
    "8-bit": AdamW8bit,
    "paged": PagedAdamW,
    "paged 8-bit": lambda params, **kw: PagedAdamW(params, bits=8, **kw),
}


@pytest.fixture(params=OPTIMIZERS)
def make(request):
    return OPTIMIZERS[request.param]


def problem(dtype=torch.float32):
    """A small regression: parameters of odd sizes, and a function that makes their gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(37, 65), nn.Tanh(), nn.Linear(65, 3)).to(dtype)
    x, y = torch.randn(50, 37).to(dtype), torch.randn(50, 3).to(dtype)

    def gradients():
        model.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return float(loss.detach())

    return model, gradients


def steps(model, gradients, optimizer, count):
    for _ in range(count):
        gradients()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("page", [256, 1 << 20])
def test_paged_steps_are_torch_s_bit_for_bit(monkeypatch, page, tmp_path):
    monkeypatch.setattr(adamw, "PAGE", page)
    settings = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    expected = steps(*(found := problem()), torch.optim.AdamW(found[0].parameters(), **settings), 20)
    for folder in (None, tmp_path):
        model, gradients = problem()
        ours = PagedAdamW(model.parameters(), **settings, folder=folder)
        assert same(steps(model, gradients, ours, 20), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bits_learn_as_32_do(dtype):
    losses = {}
    for name, cls in (("8", AdamW8bit), ("32", torch.optim.AdamW)):
        model, gradients = problem(dtype)
        steps(model, gradients, cls(model.parameters(), lr=0.01), 100)
        losses[name] = gradients()
    assert losses["8"] < 1.25 * losses["32"] + 1e-3


def test_the_first_8_bit_step_is_the_32_bit_one():
    """The step is made before the averages are packed."""
    one, other = problem(), problem()
    ours = steps(*one, AdamW8bit(one[0].parameters(), lr=0.01), 1)
    theirs = steps(*other, torch.optim.AdamW(other[0].parameters(), lr=0.01), 1)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resuming_goes_on_bit_for_bit(make, dtype, tmp_path):
    model, gradients = problem(dtype)
    optimizer = make(model.parameters(), lr=0.01)
    steps(model, gradients, optimizer, 7)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x.pt")
    expected = steps(model, gradients, optimizer, 5)
    model, gradients = problem(dtype)
    optimizer = make(model.parameters(), lr=0.5)
    kept = torch.load(tmp_path / "x.pt")
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert same(steps(model, gradients, optimizer, 5), expected)


def test_it_is_driven_as_torch_s_own(make):
    """Schedules, groups added later, closures, steps that a hook sees, a step inside no_grad."""
    model, gradients = problem()
    optimizer = make([model[0].weight], lr=0.01)
    assert isinstance(optimizer, torch.optim.Optimizer)
    optimizer.add_param_group({"params": [model[2].weight, model[2].bias], "lr": 0.1, "weight_decay": 0.0})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    seen, before = [], gradients()
    optimizer.register_step_post_hook(lambda *_: seen.append(True))
    for _ in range(4):
        with torch.no_grad():
            assert optimizer.step(torch.enable_grad()(gradients)) > 0
        schedule.step()
    assert gradients() < before
    assert len(seen) == 4
    assert [group["lr"] for group in optimizer.param_groups] == [0.01 / 16, 0.1 / 16]
    optimizer.zero_grad()
    assert model[0].weight.grad is None
    assert model[0].bias.grad is not None


def test_resuming_in_the_middle_of_a_schedule_and_of_qlora(make, tmp_path):
    """Bit for bit: an adapter on a base in NF4, groups, a schedule, states through a file."""
    from course_lib.adapters import LoRA, attach
    from course_lib.quant import quantize_model

    def start():
        torch.manual_seed(0)
        model = quantize_model(nn.Sequential(nn.Linear(37, 65), nn.Tanh(), nn.Linear(65, 3)))
        handle = attach(model, LoRA(3, targets=("0", "2")))
        first, *others = handle.parameters()
        optimizer = make([{"params": [first], "weight_decay": 0.3}, {"params": others}], lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        return model, handle, optimizer, schedule

    def run(model, handle, optimizer, schedule, numbers):
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            optimizer.zero_grad()
            model(torch.randn(9, 37, generator=generator)).square().mean().backward()
            optimizer.step()
            schedule.step()
        return [p.detach().clone() for p in handle.parameters()]

    kept = start()
    run(*kept, range(5))
    model, _, optimizer, schedule = kept
    torch.save([part.state_dict() for part in (model, optimizer, schedule)], tmp_path / "kept.pt")
    expected = run(*kept, range(5, 12))
    fresh = start()
    for part, state in zip((fresh[0], *fresh[2:]), torch.load(tmp_path / "kept.pt"), strict=True):
        part.load_state_dict(state)
    assert same(run(*fresh, range(5, 12)), expected)


def test_a_paged_optimiser_is_not_copied_whole(tmp_path):
    optimizer = PagedAdamW([nn.Parameter(torch.zeros(3))], folder=tmp_path)
    with pytest.raises(TypeError, match="state_dict"):
        copy.deepcopy(optimizer)


def test_paged_and_resident_8_bit_agree(tmp_path):
    one, other = problem(), problem()
    resident = steps(*one, AdamW8bit(one[0].parameters()), 9)
    paged = PagedAdamW(other[0].parameters(), bits=8, folder=tmp_path)
    assert same(steps(*other, paged, 9), resident)


def test_loading_copies(make):
    model, gradients = problem()
    optimizer = make(model.parameters())
    steps(model, gradients, optimizer, 2)
    kept = optimizer.state_dict()
    before = copy.deepcopy(kept)
    optimizer.load_state_dict(kept)
    steps(model, gradients, optimizer, 2)
    for number, state in kept["state"].items():
        for name, value in state.items():
            assert torch.equal(value, before["state"][number][name])


def test_a_state_of_other_bits_is_refused():
    model, gradients = problem()
    optimizer = AdamW8bit(model.parameters())
    steps(model, gradients, optimizer, 1)
    with pytest.raises(ValueError, match="32-bit optimiser needs"):
        PagedAdamW(model.parameters()).load_state_dict(optimizer.state_dict())


def test_bytes_of_the_states():
    p = nn.Parameter(torch.zeros(1000))
    p.grad = torch.ones(1000)
    optimizer = AdamW8bit([p])
    optimizer.step()
    kept = optimizer.state[p]
    assert sum(v.numel() * v.element_size() for v in kept.values()) == 4 + 2 * (1000 + 4 * 4)


def test_a_variance_is_never_rounded_to_zero():
    """A small gradient beside one a million times as large must not make a huge step when it vanishes."""
    p = nn.Parameter(torch.zeros(256))
    optimizer = AdamW8bit([p], lr=1e-3, weight_decay=0.0)
    p.grad = torch.full((256,), 1e-4)
    p.grad[0] = 1.0
    optimizer.step()
    before = p.detach().clone()
    p.grad = torch.zeros(256)
    optimizer.step()
    assert float((p.detach() - before).abs().max()) < 2e-3
    assert bool((optimizer.state[p]["exp_avg_sq"] > 0).all())


def test_zero_gradients_and_none_change_nothing(make):
    p, q = nn.Parameter(torch.ones(300)), nn.Parameter(torch.ones(3))
    optimizer = make([p, q], weight_decay=0.0)
    p.grad = torch.zeros(300)
    optimizer.step()
    assert torch.equal(p.detach(), torch.ones(300))
    assert q not in optimizer.state
    assert optimizer.step(lambda: 3.0) == 3.0


def test_a_transposed_parameter_is_updated(make):
    one = nn.Parameter(torch.arange(12.0).view(3, 4).T)
    other = nn.Parameter(one.detach().contiguous())
    for p in (one, other):
        p.grad = torch.arange(12.0).view(4, 3) - 5
        make([p]).step()
    assert not one.is_contiguous()
    assert torch.equal(one, other)


def test_groups_and_empty_tensors(make):
    p, q = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(0, 3))
    p.grad, q.grad = torch.ones(5), torch.ones(0, 3)
    optimizer = make([{"params": [p], "lr": 0.0, "weight_decay": 0.0}, {"params": [q]}])
    optimizer.step()
    assert torch.equal(p.detach(), torch.ones(5))


def test_what_cannot_be_is_refused(make):
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="lr"):
        make([p], lr=-1.0)
    with pytest.raises(ValueError, match="betas"):
        make([p], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="bits"):
        PagedAdamW([p], bits=16)


@pytest.mark.peer
def test_codes_are_bitsandbytes_s():
    theirs = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(dynamic_code(), theirs.create_dynamic_map().sort().values)
    assert torch.equal(unsigned_dynamic_code(), theirs.create_dynamic_map(signed=False).sort().values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bits", [8, 32])
def test_paging_on_a_gpu_gives_the_cpu_s_steps(bits):
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(3_000_001).to(device))
        optimizer = PagedAdamW([p], bits=bits)
        for _ in range(3):
            p.grad = torch.sin(p.detach())
            optimizer.step()
        assert not any(value.is_cuda for value in optimizer.state[p].values())
        results.append(p.detach().cpu())
    assert torch.allclose(*results, rtol=1e-4, atol=1e-5)
