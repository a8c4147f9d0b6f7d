"""Our GPU kernels against the device's own copy, bitsandbytes, peft and plain PyTorch; needs a CUDA device.

Milliseconds are medians with the cache emptied before each run, launches included. Bars: NF4 dequantise at
80 % of the copy's bandwidth; NF4 linear no slower than bitsandbytes at 1, 16, 128 and 2048 rows; a QLoRA step
of a 1B Llama faster than with bitsandbytes and peft, at no more memory; bytes predicted within 2 % of the
allocator's peak. Without a device it says so and measures nothing. ``--save`` keeps the figures in
``data/benchmarks/<device>.json``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench import Row, finish
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from course_lib.adapters import LoRA, attach
from course_lib.catalog import Architecture, architecture
from course_lib.kernels import (
    linear_cross_entropy,
    lora_linear,
    nf4_dequantize,
    svft_banded,
)
from course_lib.kernels import nf4_linear as nf4_product
from course_lib.kernels.svft_banded import band
from course_lib.lm import Llama, next_token_loss
from course_lib.memory import predict
from course_lib.quant import AdamW8bit, NF4Linear, dynamic_code, nf4_code, quantize_model, quantize_nf4

ROOT = Path(__file__).resolve().parent.parent
INFINITY = float("inf")
Timer = Callable[[Callable[[], object]], float]  # milliseconds of a call


def on_device(function: Callable[[], object]) -> float:
    """Median milliseconds of a call on the GPU, its launch included, the cache emptied before each."""
    from triton.testing import do_bench

    return float(do_bench(function, warmup=50, rep=200, return_mode="median"))


def drawn(*shape: int, device: str, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return (scale * made).to(dtype).to(device)


def weight_parts(q: Any, device: str) -> tuple[Tensor, ...]:
    """What the NF4 kernels take."""
    return q.packed, q.scales, q.second, q.offset, nf4_code().to(device), dynamic_code().to(device)


def copied(device: str, timer: Timer, numbers: int) -> float:
    """GB/s, read and written, of the device's own copy."""
    source = torch.empty(numbers, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / timer(lambda: target.copy_(source)) / 1e6


def dequantise(device: str, timer: Timer, sizes: tuple[int, ...] = (4096, 8192)) -> Iterator[Row]:
    """GB/s of the kernel, all traffic counted, against those of a large copy."""
    copy = copied(device, timer, max(sizes) ** 2 * 4)
    for size in sizes:
        q = quantize_nf4(drawn(size, size, device=device))
        parts, n = weight_parts(q, device), size * size
        took = timer(lambda parts=parts, n=n: nf4_dequantize(*parts, n, 64, torch.bfloat16))
        yield Row(
            f"NF4 dequantise {size}² to bf16", (q.nbytes + 2 * n) / took / 1e6, copy, 0.8, INFINITY, "GB/s"
        )


def linear(
    device: str, timer: Timer, size: int = 4096, rows: tuple[int, ...] = (1, 16, 64, 128, 2048)
) -> Iterator[Row]:
    """A layer in NF4 against bitsandbytes' on the same weight, bf16."""
    import bitsandbytes as bnb

    weight = drawn(size, size, device=device, scale=0.02)
    layer = NF4Linear(quantize_nf4(weight))
    packed, state = bnb.functional.quantize_4bit(
        weight, blocksize=64, quant_type="nf4", compress_statistics=True
    )
    for count in rows:
        x = drawn(count, size, device=device)
        with torch.no_grad():
            ours = timer(lambda x=x: layer(x))
            theirs = timer(lambda x=x: bnb.matmul_4bit(x, packed.t(), quant_state=state))
        bar = 1.0 if count in (1, 16, 128, 2048) else INFINITY
        yield Row(f"NF4 linear {size}², {count} rows, against bitsandbytes", ours, theirs, 0, bar, "ms")


def fused(
    device: str, timer: Timer, size: int = 4096, rows: tuple[int, ...] = (1, 4, 16, 32, 64)
) -> Iterator[Row]:
    """Unpacking on the way to the matrix units, against unpacking first: which to take for how many rows."""
    q = quantize_nf4(drawn(size, size, device=device, scale=0.02))
    parts = weight_parts(q, device)

    def unpacked(x: Tensor) -> Tensor:
        return x @ nf4_dequantize(*parts, size * size, 64, x.dtype).view(size, size).T

    for count in rows:
        x = drawn(count, size, device=device)
        ours = timer(lambda x=x: nf4_product(x, *parts, size, 64))
        plain = timer(lambda x=x: unpacked(x))
        yield Row(
            f"NF4 linear {size}², {count} rows, against unpacking first", ours, plain, 0, INFINITY, "ms"
        )


def lora(device: str, timer: Timer, size: int = 4096, rows: int = 2048, rank: int = 16) -> Iterator[Row]:
    """Forward and backward of a dense layer with its LoRA, against the formula as it stands."""
    W, x = drawn(size, size, device=device, scale=0.02), drawn(rows, size, device=device).requires_grad_()
    A, B = (drawn(size, rank, device=device, scale=0.02).requires_grad_() for _ in range(2))
    g = drawn(rows, size, device=device)
    ours = timer(lambda: torch.autograd.grad(lora_linear(x, W, A, B, 2.0), (x, A, B), g))
    plain = timer(lambda: torch.autograd.grad(F.linear(x, W) + 2.0 * ((x @ B) @ A.T), (x, A, B), g))
    yield Row(f"LoRA linear {size}², {rows} rows, forward and backward", ours, plain, 0, INFINITY, "ms")


def optimiser(device: str, timer: Timer, count: int = 1 << 26) -> Iterator[Row]:
    """A step of 8-bit AdamW on one bf16 parameter, against bitsandbytes'."""
    import bitsandbytes as bnb

    times = []
    for kind in (AdamW8bit, bnb.optim.AdamW8bit):
        parameter = nn.Parameter(drawn(count, device=device))
        parameter.grad = drawn(count, device=device)
        made = kind([parameter], lr=1e-4)
        times.append(timer(made.step))
    yield Row(f"8-bit AdamW, {count / 1e6:.0f} M numbers", *times, 0, INFINITY, "ms")


def last_layer(
    device: str, timer: Timer, tokens: int = 4096, width: int = 2048, vocabulary: int = 128_256
) -> Iterator[Row]:
    """The last layer with its loss, forward and backward to the hidden states: time, and peak memory."""
    hidden, weight = drawn(tokens, width, device=device), drawn(vocabulary, width, device=device, scale=0.02)
    hidden.requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=device)

    def plain() -> Tensor:
        return F.cross_entropy((hidden @ weight.T).float(), targets)

    def ours() -> Tensor:
        return linear_cross_entropy(hidden, weight, targets)

    case = f"last layer and loss, {tokens} tokens, vocabulary {vocabulary}"
    times = [timer(lambda run=run: torch.autograd.grad(run(), hidden)) for run in (ours, plain)]
    yield Row(f"{case}: time", *times, 0, INFINITY, "ms")
    peaks = [peak_bytes(device, lambda run=run: torch.autograd.grad(run(), hidden)) for run in (ours, plain)]
    yield Row(f"{case}: memory", *(peak / 1e6 for peak in peaks), 0, 1.0, "MB")


def svft(device: str, timer: Timer, n: int = 4096, tokens: int = 2048, d: int = 8) -> Iterator[Row]:
    """SVFT's banded product, forward and backward, against a dense M."""
    y = drawn(tokens, n, device=device).requires_grad_()
    cells = band(n, d, torch.device(device))
    values, g = drawn(cells.shape[1], device=device).requires_grad_(), drawn(tokens, n, device=device)

    def dense() -> Tensor:
        return y @ torch.zeros(n, n, dtype=y.dtype, device=device).index_put((cells[0], cells[1]), values).T

    ours = timer(lambda: torch.autograd.grad(svft_banded(y, values, d), (y, values), g))
    plain = timer(lambda: torch.autograd.grad(dense(), (y, values), g))
    yield Row(f"SVFT banded, n = {n}, d = {d}, {tokens} tokens", ours, plain, 0, INFINITY, "ms")


def peak_bytes(device: str, run: Callable[[], object]) -> float:
    """What a run adds to the allocator's peak; 1 without an allocator that counts."""
    if device == "cpu":
        run()
        return 1.0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before)


def llama(arch: Architecture, device: str) -> nn.Module:
    """A Llama of Hugging Face's with random bf16 weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=arch.hidden, num_hidden_layers=arch.layers, num_attention_heads=arch.heads,
        num_key_value_heads=arch.kv_heads, head_dim=arch.head_dim, intermediate_size=arch.intermediate,
        vocab_size=arch.vocab, max_position_embeddings=4096, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(config).to(torch.bfloat16)


def theirs_quantised(model: nn.Module, rank: int) -> nn.Module:
    """bitsandbytes' 4-bit layers in the place of all linear maps of the blocks, and peft's LoRA on them."""
    import bitsandbytes as bnb
    import peft

    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            made = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16,
                quant_type="nf4", compress_statistics=True,
            )  # fmt: skip
            made.weight = bnb.nn.Params4bit(
                module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
            )
            model.set_submodule(name, made.to(module.weight.device))
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config, autocast_adapter_dtype=False)


def ours_quantised(model: nn.Module, rank: int) -> nn.Module:
    quantize_model(model)
    attach(model, LoRA(rank))
    return model


def qlora_step(
    device: str, timer: Timer, arch: Architecture | None = None, batch: int = 4, length: int = 512
) -> Iterator[Row]:
    """A step of QLoRA, rank 16, on the same model: theirs with bitsandbytes and peft."""
    arch = arch or architecture("llama-3.2-1b")
    tokens = torch.randint(0, arch.vocab, (batch, length), device=device)
    times, peaks = [], []
    for prepare in (ours_quantised, theirs_quantised):
        model = prepare(llama(arch, device), 16).train()
        made = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

        def step(model: nn.Module = model, made: Any = made) -> None:
            made.zero_grad(set_to_none=True)
            model(input_ids=tokens, labels=tokens).loss.backward()
            made.step()

        step()
        times.append(timer(step))
        peaks.append(resident(device) + peak_bytes(device, step))
        del model, made, step
        if device != "cpu":
            torch.cuda.empty_cache()
    case = f"QLoRA step, {arch.name}, {batch} × {length} tokens, against bitsandbytes and peft"
    yield Row(f"{case}: time", *times, 0, 1.0, "ms")
    yield Row(f"{case}: memory", *(peak / 1e9 for peak in peaks), 0, 1.0, "GB")


def resident(device: str) -> float:
    return float(torch.cuda.memory_allocated()) if device != "cpu" else 0.0


def predicted(
    device: str, timer: Timer, arch: Architecture | None = None, batch: int = 2, length: int = 512
) -> Iterator[Row]:
    """The memory room's prediction of our own step against the allocator's peak."""
    arch = arch or architecture("llama-3.2-1b")
    torch.manual_seed(0)
    with torch.device(device):
        model = Llama(arch).to(torch.bfloat16)
    quantize_model(model)
    attach(model, LoRA(16, dtype=torch.bfloat16))
    optimizer = AdamW8bit([p for p in model.parameters() if p.requires_grad], lr=0.0)
    tokens = torch.randint(0, arch.vocab, (batch, length), device=device)

    def step() -> None:
        next_token_loss(model(tokens), tokens).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    counted = resident(device) + peak_bytes(device, step)
    report = predict(
        arch, LoRA(16), batch_size=batch, seq_len=length, dtype="pure-bf16", optimizer="adamw-8bit",
        quantization="nf4-dq",
    )  # fmt: skip
    yield Row(f"predicted peak, {arch.name} in NF4, {batch} × {length} tokens",
              report.peak / 1e9, counted / 1e9, 0.98, 1.02, "GB")  # fmt: skip


CASES = (dequantise, linear, fused, lora, optimiser, last_layer, svft, predicted, qlora_step)


def measured(device: str, timer: Timer) -> Iterator[Row]:
    """All cases; one whose peer is not installed is left out, and named."""
    for case in CASES:
        try:
            yield from case(device, timer)
        except ModuleNotFoundError as missing:
            print(f"{case.__name__}: not measured, {missing}")


def save(rows: list[Row], name: str) -> Path:
    """Write ``data/benchmarks/<device>.json``."""
    import triton

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    versions = f"torch {torch.__version__}, Triton {triton.__version__}, CUDA {torch.version.cuda}"
    kept = {
        "machine": f"{name}, {versions}",
        "command": "python benchmarks/gpu.py --save",
        "commit": commit,
        "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
    }
    path = ROOT / "data" / "benchmarks" / (re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    parser.add_argument("--save", action="store_true", help="keep them in data/benchmarks/<device>.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured: no CUDA device here")
        return
    rows = list(measured("cuda", on_device))
    if options.save:
        print(f"kept in {save(rows, torch.cuda.get_device_name())}")
    finish(rows, options, "ours", "other")


if __name__ == "__main__":
    main()
