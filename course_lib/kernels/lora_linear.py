"""A dense linear layer and its LoRA in one product: y = x Wᵀ + s (x B) Aᵀ, and backward with the same
kernel.

x is read once for both: x B (tile, r) grows beside x Wᵀ as the columns go by. Backward is the same product
with g for x, Wᵀ for W and A, B exchanged. Saved are x, A and B; x B is made again, since r numbers a token
are cheaper to multiply than to keep.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, dot_type, jit, power_of_two, tl, use_triton

FUSED_RANK = 32  # above, the tile of x B spills beside the others
TILES = {torch.bfloat16: (128, 128, 32), torch.float16: (128, 128, 32), torch.float32: (64, 64, 32)}


@jit
def product_kernel(  # type: ignore[no-untyped-def]
    x,  # (rows, columns)
    w,  # (width, columns), by its strides
    down,  # (columns, r)
    up,  # (width, r)
    out,  # (rows, width)
    rows,
    width,
    columns,
    r,
    w_row,
    w_column,
    scale,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    RANK: tl.constexpr,
    DOT: tl.constexpr,
):
    """A tile (M, N) of x wᵀ + scale · (x down) upᵀ."""
    m = tl.program_id(0) * M + tl.arange(0, M)
    n = tl.program_id(1) * N + tl.arange(0, N)
    q = tl.arange(0, RANK)
    total = tl.zeros((M, N), tl.float32)
    inner = tl.zeros((M, RANK), tl.float32)
    for begin in range(0, columns, K):
        k = begin + tl.arange(0, K)
        here = k[None, :] < columns
        seen = tl.load(
            x + m.to(tl.int64)[:, None] * columns + k[None, :], mask=(m[:, None] < rows) & here, other=0.0
        ).to(DOT)
        weight = tl.load(
            w + n.to(tl.int64)[:, None] * w_row + k[None, :] * w_column,
            mask=(n[:, None] < width) & here,
            other=0.0,
        ).to(DOT)
        first = tl.load(
            down + k[:, None] * r + q[None, :], mask=(k[:, None] < columns) & (q[None, :] < r), other=0.0
        ).to(DOT)
        total = tl.dot(seen, tl.trans(weight), total, input_precision="ieee")
        inner = tl.dot(seen, first, inner, input_precision="ieee")
    second = tl.load(
        up + n[:, None] * r + q[None, :], mask=(n[:, None] < width) & (q[None, :] < r), other=0.0
    ).to(DOT)
    total = tl.dot((inner * scale).to(DOT), tl.trans(second), total, input_precision="ieee")
    to = out + m.to(tl.int64)[:, None] * width + n[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=(m[:, None] < rows) & (n[None, :] < width))


def reference(x: Tensor, w: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """The same in PyTorch."""
    return (x @ w.T).addmm_(x @ down, up.T, alpha=scale)


def product(
    x: Tensor, w: Tensor, down: Tensor, up: Tensor, scale: float, tiles: tuple[int, int, int] | None = None
) -> Tensor:
    """x wᵀ + scale · (x down) upᵀ (rows, width); w may be a transposed view."""
    r = down.shape[1]
    if not use_triton(x) or x.dtype not in TILES or r > FUSED_RANK or not len(x):
        return reference(x, w, down, up, scale)
    m, n, k = tiles or TILES[x.dtype]
    (rows, columns), width = x.shape, len(w)
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    product_kernel[(cdiv(rows, m), cdiv(width, n))](
        x, w, down, up, out, rows, width, columns, r, *w.stride(), scale, M=m, N=n, K=k,
        RANK=max(16, power_of_two(r)), DOT=dot_type(x.dtype), num_warps=8, num_stages=4,
    )  # fmt: skip
    return out


@torch.library.custom_op("course::lora_linear", mutates_args=())
def lora_linear(x: Tensor, W: Tensor, A: Tensor, B: Tensor, scale: float = 1.0) -> Tensor:
    """x Wᵀ + scale · (x B) Aᵀ (rows, d_out); x (rows, d_in), W (d_out, d_in), A (d_out, r), B (d_in, r).

    All of one type and contiguous; W may be a transposed view. Gradients go to x, A and B: W is frozen.
    """
    return product(x, W, B, A, scale)


@lora_linear.register_fake
def _(x: Tensor, W: Tensor, A: Tensor, B: Tensor, scale: float = 1.0) -> Tensor:
    return x.new_empty(x.shape[0], W.shape[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, W, A, B, ctx.scale = inputs
    ctx.save_for_backward(x, W, A, B)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, W, A, B = ctx.saved_tensors
    g = g.contiguous()
    # the operation and not its kernel, so that torch.compile can trace it on a device
    dx = lora_linear(g, W.T, B, A, ctx.scale) if ctx.needs_input_grad[0] else None
    dA = (g.T @ (x @ B)).mul_(ctx.scale) if ctx.needs_input_grad[2] else None
    dB = (x.T @ (g @ A)).mul_(ctx.scale) if ctx.needs_input_grad[3] else None
    return dx, None, dA, dB, None


lora_linear.register_autograd(_backward, setup_context=_keep)


def cases() -> list[Case]:
    """What is compiled ahead of time: forward (rows of W lie side by side) and backward (columns do)."""
    made = []
    for dtype, (m, n, k) in TILES.items():
        name = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "fp32")
        signature = {
            **dict.fromkeys(("x", "w", "down", "up", "out"), f"*{name}"),
            **dict.fromkeys(("rows", "width", "columns", "r", "w_row", "w_column"), "i32"),
            "scale": "fp32", **dict.fromkeys(("M", "N", "K", "RANK", "DOT"), "constexpr"),
        }  # fmt: skip
        constants = {"M": m, "N": n, "K": k, "RANK": FUSED_RANK, "DOT": dot_type(dtype)}
        for way, unit in (("forward", "w_column"), ("backward", "w_row")):
            # a stride of 1 is a constant, as it is when the kernel is launched
            made.append(
                Case(
                    f"lora_linear {name}, {way}",
                    product_kernel,
                    signature | {unit: "constexpr"},
                    constants | {unit: 1},
                    warps=8,
                    stages=4,
                    wgmma=dtype != torch.float32,
                    multiples=("width", "columns", "r", "w_row" if way == "forward" else "w_column"),
                )
            )
    return made
