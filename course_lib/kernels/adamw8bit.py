"""One AdamW step whose two averages are kept in 8 bits: unpacked, updated and packed again in registers.

Traffic a number with fp32 weights: 4 bytes of gradient and 4 of weight read, 4 of weight written, 2 bytes of
averages read and 2 written, 4/32 of scales. PyTorch makes some fifteen passes over fp32 copies for the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, jit, tl, use_triton

BLOCK = 256  # numbers of an average that share a scale
ROWS = 4  # blocks a program updates


@jit
def packed_average(average, code, bounds, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Indices of the code's values nearest to an average (ROWS, BLOCK), and each row's largest magnitude."""
    bits = average.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    # magnitudes order as their bits do; NaN is above all, so that it is seen and not passed over
    peak = tl.max(bits, axis=1).to(tl.float32, bitcast=True)
    floor = tl.maximum(peak, tl.full((ROWS,), 1e-38, tl.float32))
    scaled = average * tl.div_rn(tl.full((ROWS,), 1.0, tl.float32), floor)[:, None]
    index = tl.zeros(average.shape, tl.int32)
    for i in tl.static_range(8):  # how many of the 255 bounds lie below: a search by halves
        index += tl.where(tl.load(bounds + index + ((128 >> i) - 1)) < scaled, 128 >> i, 0)
    return index, peak


@jit
def step_kernel(  # type: ignore[no-untyped-def]
    weights,  # (n,) any float, updated
    gradient,  # (n,) any float
    mean,  # (n,) uint8, updated like the three that follow
    mean_scale,  # (blocks,) fp32
    variance,  # (n,) uint8
    variance_scale,  # (blocks,) fp32
    mean_code,  # (256,) fp32
    mean_bounds,  # (255,) fp32
    variance_code,
    variance_bounds,
    n,
    blocks,
    new_share,  # 1 − β₁
    beta2,
    new_square,  # 1 − β₂, which fp32 could not tell from β₂
    decay,  # 1 − lr · λ
    rate,  # lr / (1 − β₁ᵗ)
    correction,  # √(1 − β₂ᵗ)
    eps,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS blocks a program."""
    block = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = block.to(tl.int64)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside, real = at < n, block < blocks
    g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    m = tl.load(mean_code + tl.load(mean + at, mask=inside, other=0).to(tl.int32))
    m = m * tl.load(mean_scale + block, mask=real, other=0.0)[:, None]
    v = tl.load(variance_code + tl.load(variance + at, mask=inside, other=0).to(tl.int32))
    v = v * tl.load(variance_scale + block, mask=real, other=0.0)[:, None]
    m = m + new_share * (g - m)
    v = v * beta2 + new_square * g * g
    w = tl.load(weights + at, mask=inside, other=0.0).to(tl.float32) * decay
    root = tl.sqrt_rn(v) / correction + eps
    w = w - rate * m / root
    tl.store(weights + at, w.to(weights.dtype.element_ty), mask=inside)
    # what lies beyond the end must not raise a block's scale
    index, peak = packed_average(tl.where(inside, m, 0.0), mean_code, mean_bounds, ROWS)
    tl.store(mean + at, index.to(tl.uint8), mask=inside)
    tl.store(mean_scale + block, peak, mask=real)
    index, peak = packed_average(tl.where(inside, v, 0.0), variance_code, variance_bounds, ROWS)
    index = tl.maximum(index, (v > 0).to(tl.int32))  # the step divides by its root: only zero may be zero
    tl.store(variance + at, index.to(tl.uint8), mask=inside)
    tl.store(variance_scale + block, peak, mask=real)


def reference(
    weights: Tensor, gradient: Tensor, mean: Tensor, mean_scale: Tensor, variance: Tensor,
    variance_scale: Tensor, mean_code: Tensor, mean_bounds: Tensor, variance_code: Tensor,
    variance_bounds: Tensor, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    step: int,
) -> None:  # fmt: skip
    """The same in PyTorch, in the precision of the codes."""
    n, wide = len(weights), mean_code.dtype
    g = gradient.to(wide)
    m = mean_code[mean.long()] * mean_scale.to(wide).repeat_interleave(BLOCK)[:n]
    v = variance_code[variance.long()] * variance_scale.to(wide).repeat_interleave(BLOCK)[:n]
    m = m + (1 - beta1) * (g - m)
    v = v * beta2 + (1 - beta2) * g * g
    root = v.sqrt() / math.sqrt(1 - beta2**step) + eps
    weights.copy_(weights.to(wide) * (1 - lr * weight_decay) - lr / (1 - beta1**step) * m / root)
    for average, kept, scale, bounds in (
        (m, mean, mean_scale, mean_bounds), (v, variance, variance_scale, variance_bounds)
    ):  # fmt: skip
        blocks = torch.nn.functional.pad(average, (0, len(scale) * BLOCK - n)).view(-1, BLOCK)
        peak = blocks.abs().amax(dim=1)
        scaled = (blocks * (1.0 / peak.clamp(min=1e-38))[:, None]).view(-1)[:n].contiguous()
        kept.copy_(torch.bucketize(scaled, bounds))
        scale.copy_(peak)
    variance.copy_(torch.maximum(variance, (v > 0).to(torch.uint8)))


@torch.library.custom_op(
    "course::adamw8bit",
    mutates_args=("weights", "mean", "mean_scale", "variance", "variance_scale"),
)
def adamw8bit(
    weights: Tensor,
    gradient: Tensor,
    mean: Tensor,
    mean_scale: Tensor,
    variance: Tensor,
    variance_scale: Tensor,
    mean_code: Tensor,
    mean_bounds: Tensor,
    variance_code: Tensor,
    variance_bounds: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> None:
    """Step ``step`` (from 1) of AdamW on ``weights`` (n,), in place, with averages in 8 bits.

    ``mean`` and ``variance`` (n,) uint8 are indices into the codes (256,), whose middles are the ``bounds``
    (255,); their scales (⌈n / 256⌉,) are fp32. All tensors are contiguous (Dettmers et al. 2022, arXiv
    2110.02861; Loshchilov and Hutter 2019, arXiv 1711.05101).
    """
    if not (len(weights) and use_triton(weights)) or weights.dtype == torch.float64:
        reference(
            weights, gradient, mean, mean_scale, variance, variance_scale, mean_code, mean_bounds,
            variance_code, variance_bounds, lr, beta1, beta2, eps, weight_decay, step,
        )  # fmt: skip
        return
    step_kernel[(cdiv(len(mean_scale), ROWS),)](
        weights, gradient, mean, mean_scale, variance, variance_scale, mean_code, mean_bounds, variance_code,
        variance_bounds, len(weights), len(mean_scale), 1 - beta1, beta2, 1 - beta2, 1 - lr * weight_decay,
        lr / (1 - beta1**step), math.sqrt(1 - beta2**step), eps, BLOCK=BLOCK, ROWS=ROWS, num_warps=4,
    )  # fmt: skip


@adamw8bit.register_fake
def _(
    weights: Tensor, gradient: Tensor, mean: Tensor, mean_scale: Tensor, variance: Tensor,
    variance_scale: Tensor, mean_code: Tensor, mean_bounds: Tensor, variance_code: Tensor,
    variance_bounds: Tensor, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    step: int,
) -> None:  # fmt: skip
    return None


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    tables = ("mean_code", "mean_bounds", "variance_code", "variance_bounds")
    numbers = ("new_share", "beta2", "new_square", "decay", "rate", "correction", "eps")
    return [
        Case(
            f"adamw8bit {name}",
            step_kernel,
            {
                "weights": f"*{name}", "gradient": f"*{name}", "mean": "*u8", "mean_scale": "*fp32",
                "variance": "*u8", "variance_scale": "*fp32", **dict.fromkeys(tables, "*fp32"),
                "n": "i32", "blocks": "i32", **dict.fromkeys(numbers, "fp32"),
                "BLOCK": "constexpr", "ROWS": "constexpr",
            },
            {"BLOCK": BLOCK, "ROWS": ROWS},
        )
        for name in ("fp32", "bf16", "fp16")
    ]  # fmt: skip
