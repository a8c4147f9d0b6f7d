"""Bytes predicted from a configuration against bytes counted in a real step, and against published totals.

Bars: weights, quantisation constants, gradients and optimiser states to the byte; saved activations within
1 %, the peak within 2 %.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench import Row, arguments, finish

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from course_lib.adapters import SVF, SVFT, DoRA, LoRA, LoRAXS, MiLoRA, PiSSA, Spec, attach
from course_lib.catalog import Architecture
from course_lib.lm import KVCache, Llama, load_base_model, load_pretrained, next_token_loss
from course_lib.memory import MemoryReport, measure, predict, qlora_account
from course_lib.quant import AdamW8bit, PagedAdamW, quantize_model

FIVE_MILLION = Architecture(
    name="5M",
    hidden=256,
    layers=4,
    heads=4,
    kv_heads=4,
    head_dim=64,
    intermediate=688,
    vocab=4096,
    max_length=512,
)
METHODS: dict[str, Spec | None] = {
    "full": None,
    "LoRA r=8": LoRA(8),
    "DoRA r=8": DoRA(8),
    "PiSSA r=8": PiSSA(8),
    "MiLoRA r=8": MiLoRA(8),
    "LoRA-XS r=8": LoRAXS(8),
    "SVF": SVF(),
    "SVFT plain": SVFT("plain"),
    "SVFT banded d=4": SVFT("banded", 4),
    "SVFT random d=4": SVFT("random", 4),
    "SVFT top-k d=4": SVFT("top_k", 4),
}
SHORT = ("full", "LoRA r=8")  # what every model and size is tried with, without --full
STATIC = (
    "weights",
    "quantization_constants",
    "adapters",
    "gradients",
    "adam_mean",
    "adam_variance",
    "optimizer_other",
)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adamw-8bit": AdamW8bit,
    "adamw-paged": lambda p, **k: PagedAdamW(p, folder=tempfile.gettempdir(), **k),
    "adamw-8bit-paged": lambda p, **k: PagedAdamW(p, folder=tempfile.gettempdir(), bits=8, **k),
}


def training(
    model: Llama, spec: Spec | None, batch: int, length: int, checkpointing: bool, optimizer: str = "adamw"
) -> MemoryReport:
    """A real step of full fine-tuning, or of an adapter on a frozen base, after a first one has made the
    states.
    """
    model.model.checkpointing = checkpointing
    handle = attach(model, spec) if spec is not None else None
    trained = [p for p in model.parameters() if p.requires_grad]
    made = OPTIMIZERS[optimizer](trained, lr=0.0, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    tokens, targets = torch.randint(
        model.architecture.vocab, (2, batch, length), generator=generator
    ).unbind()
    tokens, targets = tokens.clone(), targets.clone()

    def step() -> None:
        made.zero_grad()
        next_token_loss(model(tokens), targets).backward()
        made.step()

    step()
    report = measure(model, step)
    made.zero_grad()
    if handle is not None:
        handle.detach()
    model.model.checkpointing = False
    return report


def inference(model: Llama, batch: int, length: int) -> MemoryReport:
    """Reading a prompt into the cache and choosing the next token."""
    arch = model.architecture
    tokens = torch.zeros(batch, length, dtype=torch.long)

    def step() -> KVCache:
        with torch.no_grad():
            cache = KVCache(arch, batch, length)
            model.lm_head(model.model(tokens, cache)[:, -1]).float().argmax(-1)
            return cache

    return measure(model, step)


def compare(name: str, predicted: MemoryReport, measured: MemoryReport) -> list[Row]:
    static = tuple(sum(report[part] for part in STATIC) + report.paged for report in (predicted, measured))
    # a sum can hide two errors; each part has to agree
    exact = all(predicted[part] == measured[part] for part in STATIC) and predicted.paged == measured.paged
    rows = [Row(f"{name}: weights, gradients, optimizer", static[0], static[1] if exact else -1, 1, 1)]
    kept = "kv_cache" if measured["kv_cache"] else "activations"
    rows.append(Row(f"{name}: {kept}", predicted[kept], measured[kept], 0.99, 1.01))
    return [*rows, Row(f"{name}: peak", predicted.peak, measured.peak, 0.98, 1.02)]


def models(full: bool) -> list[tuple[str, Llama, list[tuple[int, int]]]]:
    torch.manual_seed(0)
    cases = [
        ("base model", load_base_model()[0], [(2, 64), (8, 128)]),
        ("5M Llama", Llama(FIVE_MILLION), [(2, 64), (8, 128)]),
    ]
    try:
        cases.append(("SmolLM2-135M", load_pretrained("smollm2-135m")[0], [(1, 64)] + [(4, 256)] * full))
    except ModuleNotFoundError as missing:
        print(missing)
    return cases


def quantised(name: str, model: Llama, sizes: list[tuple[int, int]], full: bool) -> list[Row]:
    """A LoRA on a base in NF4, with every optimiser, and reading a prompt."""
    model = copy.deepcopy(model)
    quantize_model(model)
    arch, spec = model.architecture, LoRA(8)
    rows: list[Row] = []
    for batch, length in sizes:
        setting: dict[str, Any] = {
            "batch_size": batch,
            "seq_len": length,
            "quantization": "nf4-dq",
            "device": "cpu",
        }
        for optimizer in OPTIMIZERS:
            for checkpointing in (False, True) if full or optimizer == "adamw" else (False,):
                found = training(model, spec, batch, length, checkpointing, optimizer)
                expected = predict(arch, spec, optimizer=optimizer, checkpointing=checkpointing, **setting)
                mark = ", checkpointed" if checkpointing else ""
                rows += compare(f"{name}, QLoRA, {optimizer}, {batch}×{length}{mark}", expected, found)
        expected = predict(arch, phase="inference", **setting)
        label = f"{name}, NF4, inference, {batch}×{length}"
        rows += compare(label, expected, inference(model, batch, length))
    return rows


def published() -> list[Row]:
    """Totals of papers and of the lecture, in GB."""
    full = predict("llama-1-65b", dtype="bf16", seq_len=512)
    qlora = qlora_account()[4].report  # before anything is paged out
    billion = predict("llama-3.2-1b", dtype="mixed").static / 1_235_814_400
    return [
        Row(
            "LLaMA-65B, 16-bit, Adam: GB (Dettmers et al. 2023: more than 780)",
            full.static / 1e9,
            780,
            1,
            1.01,
        ),
        Row("LLaMA-65B, QLoRA r=64: GB (Dettmers et al. 2023: under 48)", qlora.peak / 1e9, 48, 0, 1),
        Row("SFT in mixed precision: bytes a parameter (lecture: 18)", billion, 18, 0.999, 1.001),
    ]


if __name__ == "__main__":
    options = arguments(__doc__ or "")
    rows = []
    for name, model, sizes in models(options.full):
        for batch, length in sizes:
            for label, spec in METHODS.items():
                if label not in SHORT and (batch, length) != (2, 64) and not options.full:
                    continue
                for checkpointing in (False, True):
                    found = training(model, spec, batch, length, checkpointing)
                    expected = predict(model.architecture, spec or "full", batch_size=batch, seq_len=length,
                                       checkpointing=checkpointing)  # fmt: skip
                    mark = ", checkpointed" if checkpointing else ""
                    rows += compare(f"{name}, {label}, {batch}×{length}{mark}", expected, found)
            expected = predict(model.architecture, phase="inference", batch_size=batch, seq_len=length)
            rows += compare(f"{name}, inference, {batch}×{length}", expected, inference(model, batch, length))
            for optimizer in ("adamw-8bit", "adamw-paged", "adamw-8bit-paged"):
                if (batch, length) != sizes[0] and not options.full:
                    continue
                found = training(model, None, batch, length, False, optimizer)
                expected = predict(model.architecture, optimizer=optimizer, batch_size=batch, seq_len=length,
                                   device="cpu")  # fmt: skip
                rows += compare(f"{name}, full, {optimizer}, {batch}×{length}", expected, found)
        rows += quantised(name, model, sizes, options.full)
    finish(rows + published(), options, "predicted", "measured")
