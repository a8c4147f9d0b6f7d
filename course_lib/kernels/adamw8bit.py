"""A step of AdamW whose averages are bytes: unpacked, updated in fp32 and packed again without leaving the
chip.

Traffic a parameter in bf16: 2 bytes of gradient and 2 · 2 of weight, 2 · 2 of averages, 4 · 4/256 of scales:
10.06 bytes, where fp32 averages take 22.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, jit, tl, use_triton

BLOCK = 256  # numbers of an average that share a scale
ROWS = 4  # blocks a program


@jit
def packed_average(value, bounds, last, ROWS: tl.constexpr, RAGGED: tl.constexpr):  # type: ignore[no-untyped-def]
    """(indices, magnitudes) of blocks: how many of the 255 middles lie below, found by halving."""
    peak = tl.max(tl.abs(value), axis=1)
    floor = tl.maximum(peak, tl.full((ROWS,), 1e-38, tl.float32))[:, None]
    scaled = value * tl.div_rn(tl.full((ROWS, 1), 1.0, tl.float32), floor)
    if RAGGED:  # where the last block is shorter, the CPU's code divides
        divided = tl.div_rn(value, tl.broadcast_to(floor, value.shape))
        scaled = tl.where(last[:, None], tl.minimum(tl.maximum(divided, -1.0), 1.0), scaled)
    index = tl.zeros(value.shape, tl.int32)
    for power in tl.static_range(8):
        further = index + (128 >> power)
        index = tl.where(scaled > tl.load(bounds + further - 1), further, index)
    return index, peak


@jit
def step_kernel(  # type: ignore[no-untyped-def]
    parameter,  # (n,)
    gradient,  # (n,)
    mean,  # (n,) uint8
    mean_scale,  # (blocks,) fp32
    variance,
    variance_scale,
    signed,  # (256,) fp32, what the bytes of the mean stand for
    unsigned,
    signed_bounds,  # (255,) fp32, middles between them
    unsigned_bounds,
    n,
    blocks,
    decay,  # 1 − lr · λ
    rate,  # lr / (1 − β₁ᵗ)
    root,  # √(1 − β₂ᵗ)
    beta1,
    beta2,
    eps,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """ROWS blocks a program."""
    block = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = block.to(tl.int64)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside, there = at < n, block < blocks
    m = tl.load(signed + tl.load(mean + at, mask=inside, other=0).to(tl.int32))
    m = m * tl.load(mean_scale + block, mask=there, other=0.0)[:, None]
    v = tl.load(unsigned + tl.load(variance + at, mask=inside, other=0).to(tl.int32))
    v = v * tl.load(variance_scale + block, mask=there, other=0.0)[:, None]
    g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    m = tl.where(inside, m + (1 - beta1) * (g - m), 0.0)
    v = tl.where(inside, v * beta2 + (1 - beta2) * g * g, 0.0)
    w = tl.load(parameter + at, mask=inside, other=0.0).to(tl.float32) * decay
    w = w - rate * tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), tl.zeros_like(v) + root) + eps)
    tl.store(parameter + at, w.to(parameter.dtype.element_ty), mask=inside)
    last = block == blocks - 1
    index, peak = packed_average(m, signed_bounds, last, ROWS, RAGGED)
    tl.store(mean + at, index.to(tl.uint8), mask=inside)
    tl.store(mean_scale + block, peak, mask=there)
    index, peak = packed_average(v, unsigned_bounds, last, ROWS, RAGGED)
    index = tl.maximum(index, (v > 0).to(tl.int32))  # what is not zero stays so: the step divides by it
    tl.store(variance + at, index.to(tl.uint8), mask=inside)
    tl.store(variance_scale + block, peak, mask=there)


def reference(
    parameter: Tensor, gradient: Tensor, mean: Tensor, mean_scale: Tensor, variance: Tensor,
    variance_scale: Tensor, signed: Tensor, unsigned: Tensor, step: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """The same in PyTorch, in the precision of ``signed``."""
    n, kind = parameter.numel(), signed.dtype

    def unpacked(indices: Tensor, scale: Tensor, code: Tensor) -> Tensor:
        return code[indices.long()] * scale.to(kind).repeat_interleave(BLOCK)[:n]

    g = gradient.to(kind)
    m = unpacked(mean, mean_scale, signed).lerp_(g, 1 - beta1)
    v = unpacked(variance, variance_scale, unsigned).mul_(beta2).addcmul_(g, g, value=1 - beta2)
    w = parameter.to(kind) * (1 - lr * weight_decay)
    divisor = v.sqrt().div_(math.sqrt(1 - beta2**step)).add_(eps)
    parameter.copy_(w.addcdiv_(m, divisor, value=-lr / (1 - beta1**step)))
    for value, code, indices, scale in (
        (m, signed, mean, mean_scale),
        (v, unsigned, variance, variance_scale),
    ):
        blocks = torch.nn.functional.pad(value, (0, len(scale) * BLOCK - n)).view(-1, BLOCK)
        peak = blocks.abs().amax(dim=1)
        scaled = blocks * (1.0 / peak.clamp(min=1e-38))[:, None]
        if n % BLOCK:
            scaled[-1] = (blocks[-1] / peak[-1].clamp(min=1e-38)).clamp(-1, 1)
        nearest = torch.bucketize(scaled, (code[:-1] + code[1:]) / 2).view(-1)[:n]
        indices.copy_(nearest.maximum((value > 0).long()) if code is unsigned else nearest)
        scale.copy_(peak)


@torch.library.custom_op(
    "course::adamw8bit_step",
    mutates_args=("parameter", "mean", "mean_scale", "variance", "variance_scale"),
)
def adamw8bit_step(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    mean_scale: Tensor,
    variance: Tensor,
    variance_scale: Tensor,
    signed: Tensor,
    unsigned: Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """One step, in place: ``parameter`` and ``gradient`` (n,), ``mean`` and ``variance`` (n,) uint8.

    Their scales (⌈n / 256⌉,) fp32; ``signed`` and ``unsigned`` (256,) fp32 are what the bytes stand for. ``step``
    counts from 1.
    """
    if not use_triton(parameter):
        reference(
            parameter, gradient, mean, mean_scale, variance, variance_scale, signed, unsigned, step, lr, beta1,
            beta2, eps, weight_decay,
        )  # fmt: skip
        return
    n = parameter.numel()
    bounds = [(code[:-1] + code[1:]) / 2 for code in (signed, unsigned)]
    step_kernel[(cdiv(n, ROWS * BLOCK),)](
        parameter, gradient, mean, mean_scale, variance, variance_scale, signed, unsigned, *bounds, n,
        len(mean_scale), 1 - lr * weight_decay, lr / (1 - beta1**step), math.sqrt(1 - beta2**step), beta1, beta2,
        eps, BLOCK=BLOCK, ROWS=ROWS, RAGGED=n % BLOCK != 0, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    made = []
    for name in ("fp32", "bf16", "fp16"):
        signature = {
            "parameter": f"*{name}", "gradient": f"*{name}", "mean": "*u8", "mean_scale": "*fp32",
            "variance": "*u8", "variance_scale": "*fp32",
            **dict.fromkeys(("signed", "unsigned", "signed_bounds", "unsigned_bounds"), "*fp32"),
            "n": "i32", "blocks": "i32",
            **dict.fromkeys(("decay", "rate", "root", "beta1", "beta2", "eps"), "fp32"),
            **dict.fromkeys(("BLOCK", "ROWS", "RAGGED"), "constexpr"),
        }  # fmt: skip
        constants = {"BLOCK": BLOCK, "ROWS": ROWS, "RAGGED": True}
        made.append(Case(f"adamw8bit {name}", step_kernel, signature, constants, fusion=False))
    return made
