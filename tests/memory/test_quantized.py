"""Predicted against measured where the base is in NF4, and where the optimiser's states are in 8 bits or
elsewhere.
"""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.adapters import SVFT, DoRA, LoRA, LoRAXS, PiSSA, attach
from course_lib.lm import KVCache, Llama, next_token_loss
from course_lib.memory import measure, predict, qlora_account
from course_lib.quant import AdamW8bit, PagedAdamW, quantize_model

from .test_memory import FIVE_MILLION, STATIC, architectures

on_cpu = partial(predict, device="cpu")
PARTS = (*STATIC, "quantization_constants")
SMALL = FIVE_MILLION.with_sizes(hidden=64, head_dim=16, intermediate=160, layers=2, vocab=300)


@pytest.fixture
def optimizers(tmp_path):
    return {
        "adamw": torch.optim.AdamW,
        "adamw-8bit": AdamW8bit,
        "adamw-paged": lambda p: PagedAdamW(p, folder=tmp_path),
        "adamw-8bit-paged": lambda p: PagedAdamW(p, bits=8, folder=tmp_path),
    }


def real_step(
    arch, spec, batch, length, make, quantization="nf4-dq", checkpointing=False, dtype=torch.float32
):
    torch.manual_seed(0)
    model = Llama(arch).to(dtype)
    model.model.checkpointing = checkpointing
    if quantization != "none":
        quantize_model(model, double_quant=quantization == "nf4-dq")
    if spec is not None:
        attach(model, spec)
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    tokens, targets = torch.randint(arch.vocab, (batch, length)), torch.randint(arch.vocab, (batch, length))

    def step():
        optimizer.zero_grad()
        next_token_loss(model(tokens), targets).backward()
        optimizer.step()

    step()
    return measure(model, step)


def same_bytes(predicted, measured):
    assert {name: predicted[name] for name in PARTS} == {name: measured[name] for name in PARTS}
    assert predicted.paged == measured.paged


@settings(max_examples=25, deadline=None)
@given(arch=architectures(), rank=st.integers(1, 5), length=st.integers(2, 40), twice=st.booleans())
def test_a_quantised_base_to_the_byte(arch, rank, length, twice):
    """Maps of every size, with blocks that are not full."""
    quantization = "nf4-dq" if twice else "nf4"
    measured = real_step(arch, LoRA(rank), 2, length, torch.optim.AdamW, quantization)
    predicted = on_cpu(arch, LoRA(rank), batch_size=2, seq_len=length, quantization=quantization)
    same_bytes(predicted, measured)
    assert abs(predicted["activations"] - measured["activations"]) <= 32


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit", "adamw-paged", "adamw-8bit-paged"])
@pytest.mark.parametrize(("batch", "length"), [(1, 16), (4, 128)])
def test_the_peak_on_a_quantised_base(optimizers, optimizer, batch, length, checkpointing):
    make = optimizers[optimizer]
    measured = real_step(FIVE_MILLION, LoRA(8), batch, length, make, checkpointing=checkpointing)
    predicted = on_cpu(FIVE_MILLION, LoRA(8), batch_size=batch, seq_len=length, quantization="nf4-dq",
                        optimizer=optimizer, checkpointing=checkpointing)  # fmt: skip
    same_bytes(predicted, measured)
    assert 0.98 <= predicted.peak / measured.peak <= 1.02
    assert sum(measured.at_peak.values()) == measured.peak == max(size for _, size in measured.timeline)


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "adamw-paged", "adamw-8bit-paged"])
@pytest.mark.parametrize(("batch", "length"), [(1, 16), (4, 128)])
def test_the_peak_of_full_fine_tuning_with_small_or_paged_states(optimizers, optimizer, batch, length):
    measured = real_step(FIVE_MILLION, None, batch, length, optimizers[optimizer], "none")
    predicted = on_cpu(FIVE_MILLION, batch_size=batch, seq_len=length, optimizer=optimizer)
    same_bytes(predicted, measured)
    assert 0.98 <= predicted.peak / measured.peak <= 1.02


@pytest.mark.parametrize(
    "spec", [DoRA(4), PiSSA(4), LoRAXS(4), SVFT("banded", 2), LoRA(4, dropout=0.1)], ids=str
)
def test_other_methods_on_a_quantised_base(spec):
    measured = real_step(SMALL, spec, 3, 50, torch.optim.AdamW)
    predicted = on_cpu(SMALL, spec, batch_size=3, seq_len=50, quantization="nf4-dq")
    same_bytes(predicted, measured)
    assert 0.99 <= predicted["activations"] / measured["activations"] <= 1.01
    assert 0.98 <= predicted.peak / measured.peak <= 1.02


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "adamw-8bit-paged"])
def test_a_bf16_base_with_8_bit_states(optimizers, optimizer):
    measured = real_step(FIVE_MILLION, LoRA(8), 2, 64, optimizers[optimizer], dtype=torch.bfloat16)
    predicted = on_cpu(FIVE_MILLION, LoRA(8), batch_size=2, seq_len=64, quantization="nf4-dq", dtype="bf16",
                        optimizer=optimizer)  # fmt: skip
    same_bytes(predicted, measured)
    assert 0.98 <= predicted.peak / measured.peak <= 1.02


def test_plain_memory_of_a_cpu_is_no_way_out():
    """Without a file, what is paged on a CPU lies where everything lies, and is counted there."""
    report = real_step(SMALL, None, 1, 8, PagedAdamW, "none")
    assert report.paged == 0
    assert report["adam_mean"] == report["adam_variance"] == 4 * SMALL.parameter_count()


def test_states_that_the_first_step_makes_are_outside_too(tmp_path):
    model = torch.nn.Linear(300, 200, bias=False)
    optimizer, x = PagedAdamW(model.parameters(), folder=tmp_path), torch.ones(1, 300)

    def step():
        model(x).sum().backward()
        optimizer.step()

    report = measure(model, step)
    assert report.paged == 2 * 4 * 60_000
    assert report["adam_mean"] == 0
    assert "paged out" in str(report)
    assert "paged out" in report._repr_html_()


def test_inference_on_a_quantised_model():
    model = quantize_model(Llama(FIVE_MILLION))
    tokens = torch.zeros(2, 100, dtype=torch.long)

    def step():
        with torch.no_grad():
            cache = KVCache(FIVE_MILLION, 2, 100)
            model.lm_head(model.model(tokens, cache)[:, -1]).float().argmax(-1)
            return cache

    measured = measure(model, step)
    predicted = on_cpu(FIVE_MILLION, phase="inference", batch_size=2, seq_len=100, quantization="nf4-dq")
    same_bytes(predicted, measured)
    assert predicted["kv_cache"] == measured["kv_cache"]
    assert 0.98 <= predicted.peak / measured.peak <= 1.02


def test_the_account_of_65_billion_parameters_line_by_line():
    """From more than 780 GB to less than 48 GB (Dettmers et al. 2023), and on with paging."""
    lines = qlora_account()
    peaks = [line.report.peak / 1e9 for line in lines]
    assert peaks == sorted(peaks, reverse=True)
    assert lines[0].report.static / 1e9 == pytest.approx(783.4, abs=0.1)
    assert sum(line.saved for line in lines) == lines[0].report.peak - lines[-1].report.peak
    assert peaks[4] == pytest.approx(44.6, abs=0.05)
    assert peaks[4] < 48
    assert (
        lines[2].report.static - lines[3].report.static == lines[3].saved == pytest.approx(3.04e9, rel=0.01)
    )
    # two fp32 averages leave the device
    assert lines[5].report.paged == 8 * lines[5].report["adapters"] // 2 == pytest.approx(6.4e9, rel=0.01)
    assert "r = 64" in str(lines[1])
    assert "GB" in str(lines[0])


def test_a_gpu_unpacks_a_map_whole_and_a_cpu_a_chunk():
    setting = {"dtype": "bf16", "quantization": "nf4-dq", "checkpointing": True}
    gpu, cpu = (predict("llama-1-65b", LoRA(64), device=device, **setting) for device in ("cuda", "cpu"))
    assert gpu["workspace"] - cpu["workspace"] == 2 * 8192 * 22016 - 8 * 64 * 22016
    assert cpu.static - gpu.static == 3072 - 1088  # tables
    with pytest.raises(ValueError, match="device must be one of cuda, cpu"):
        predict("llama-1-65b", device="tpu")
