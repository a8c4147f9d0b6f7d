"""A linear layer whose weight stays in NF4, with a LoRA beside it: y = x Wᵀ + s (x B) Aᵀ, forward and
backward.

Up to ``FUSED_ROWS`` rows the time goes into reading W, so one kernel unpacks it on the way to the matrix
units: 0.52 bytes a weight move instead of 0.52 + 2 + 2. Above, arithmetic rules: W is unpacked once, and the
vendor's GEMM does the rest. Nothing dequantised is saved: backward unpacks again, since dx = g W needs W
alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, dot_type, jit, power_of_two, tl, use_triton
from course_lib.kernels.nf4_dequantize import block_scale, nf4_dequantize

FUSED_RANK = 128  # of a LoRA beside it; above, the last product would not fit the shared memory
FUSED_ROWS = {torch.bfloat16: 64, torch.float16: 64, torch.float32: 16}  # more in fp32 spill registers
TILE = 64  # rows of W a program holds, or bytes of each backward: wgmma's least
STEP = 32  # rows of W that backward unpacks at a time; 64 spill registers
PROGRAMS = 264  # two for each multiprocessor of an H100; where W has fewer tiles, its columns are shared out


@jit
def linear_kernel(  # type: ignore[no-untyped-def]
    packed,  # (d_out · d_in / 2,) uint8
    scales,
    second,
    offset,
    code,
    dynamic,
    x,  # (2, rows, d_in / 2): even columns, then odd ones
    up,  # (d_out, r), A
    down,  # (rows, r), s x B
    out,  # (SPLIT, rows, d_out) fp32, partial sums
    rows,
    d_out,
    d_in,
    r,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,  # rows, padded to a power of two of at least 16
    RANK: tl.constexpr,  # r, padded likewise; 0 without a LoRA
    SPLIT: tl.constexpr,
    DOUBLE: tl.constexpr,
    DOT: tl.constexpr,
):
    """TILE rows of W times all of x: unpack a block of columns, multiply, add."""
    HALF: tl.constexpr = BLOCK // 2
    w = tl.program_id(0) * TILE + tl.arange(0, TILE)
    t = tl.arange(0, ROWS)
    inside = w < d_out
    row_blocks = d_in // BLOCK
    share = (row_blocks + SPLIT - 1) // SPLIT
    first = tl.program_id(1) * share
    # W times xᵀ and not x times Wᵀ: the matrix units want 64 rows on the left, a few tokens do on the right
    total = tl.zeros((TILE, ROWS), tl.float32)
    for b in range(first, min(first + share, row_blocks)):
        scale = block_scale(scales, second, offset, dynamic, w * row_blocks + b, inside, DOUBLE)[:, None]
        half = b * HALF + tl.arange(0, HALF)[None, :]
        byte = tl.load(packed + w.to(tl.int64)[:, None] * (d_in // 2) + half, mask=inside[:, None], other=0)
        place = x + t[:, None] * (d_in // 2) + half
        even = tl.load(place, mask=t[:, None] < rows, other=0.0).to(DOT)
        odd = tl.load(place + rows * (d_in // 2), mask=t[:, None] < rows, other=0.0).to(DOT)
        high = (tl.load(code + (byte >> 4).to(tl.int32)) * scale).to(DOT)
        low = (tl.load(code + (byte & 15).to(tl.int32)) * scale).to(DOT)
        total = tl.dot(high, tl.trans(even), total, input_precision="ieee")
        total = tl.dot(low, tl.trans(odd), total, input_precision="ieee")
    if RANK > 0:  # noqa: SIM102 - the outer one is decided by the compiler
        if tl.program_id(1) == 0:
            k = tl.arange(0, RANK)[None, :]
            left = tl.load(up + w[:, None] * r + k, mask=inside[:, None] & (k < r), other=0.0).to(DOT)
            right = tl.load(down + t[:, None] * r + k, mask=(t[:, None] < rows) & (k < r), other=0.0).to(DOT)
            total = tl.dot(left, tl.trans(right), total, input_precision="ieee")
    to = (tl.program_id(1) * rows + t)[None, :] * d_out + w[:, None]
    tl.store(out + to, total, mask=inside[:, None] & (t[None, :] < rows))


@jit
def gradient_kernel(  # type: ignore[no-untyped-def]
    packed,
    scales,
    second,
    offset,
    code,
    dynamic,
    g,  # (rows, d_out)
    out,  # (SPLIT, rows, d_in) fp32, partial sums
    rows,
    d_out,
    d_in,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,  # bytes of a row of W, one block or more
    STEP: tl.constexpr,  # rows of W unpacked at a time
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    DOUBLE: tl.constexpr,
    DOT: tl.constexpr,
):
    """g W for 2 · TILE columns of W; even and odd ones apart, as they lie."""
    HALF: tl.constexpr = BLOCK // 2
    b = (tl.program_id(0) * (TILE // HALF) + tl.arange(0, TILE // HALF))[None, :]
    t = tl.arange(0, ROWS)
    row_blocks = d_in // BLOCK
    share = (d_out + SPLIT * STEP - 1) // (SPLIT * STEP) * STEP
    first = tl.program_id(1) * share
    even = tl.zeros((TILE, ROWS), tl.float32)
    odd = tl.zeros((TILE, ROWS), tl.float32)
    half = tl.program_id(0) * TILE + tl.arange(0, TILE)[None, :]
    there = half < d_in // 2
    for begin in range(first, min(first + share, d_out), STEP):
        w = begin + tl.arange(0, STEP)
        inside = w < d_out
        block, known = w[:, None] * row_blocks + b, inside[:, None] & (b < row_blocks)
        scale = block_scale(scales, second, offset, dynamic, block, known, DOUBLE)[:, :, None]
        scale = tl.reshape(tl.broadcast_to(scale, (STEP, TILE // HALF, HALF)), (STEP, TILE))
        at = packed + w.to(tl.int64)[:, None] * (d_in // 2) + half
        byte = tl.load(at, mask=inside[:, None] & there, other=0)
        slope = tl.load(
            g + t[None, :] * d_out + w[:, None], mask=inside[:, None] & (t[None, :] < rows), other=0.0
        ).to(DOT)
        high = (tl.load(code + (byte >> 4).to(tl.int32)) * scale).to(DOT)
        low = (tl.load(code + (byte & 15).to(tl.int32)) * scale).to(DOT)
        even = tl.dot(tl.trans(high), slope, even, input_precision="ieee")
        odd = tl.dot(tl.trans(low), slope, odd, input_precision="ieee")
    to = out + (tl.program_id(1) * rows + t)[None, :] * d_in + 2 * tl.trans(half)
    kept = tl.trans(there) & (t[None, :] < rows)
    tl.store(to, even, mask=kept)
    tl.store(to + 1, odd, mask=kept)


def fused_gradient(
    g: Tensor, packed: Tensor, scales: Tensor, second: Tensor | None, offset: Tensor | None, code: Tensor,
    dynamic: Tensor, shape: tuple[int, int], block: int, step: int = STEP, programs: int = PROGRAMS,
) -> Tensor:  # fmt: skip
    """g W (rows, d_in) for a few rows of g (rows, d_out)."""
    (d_out, d_in), rows, double = shape, len(g), second is not None
    tiles = cdiv(d_in // 2, TILE)
    split = max(1, min(16, programs // tiles, cdiv(d_out, step)))
    partial = torch.empty(split, rows, d_in, dtype=torch.float32, device=g.device)
    gradient_kernel[(tiles, split)](
        packed, scales, second if double else scales, offset if double else scales, code, dynamic, g, partial,
        rows, d_out, d_in, BLOCK=block, TILE=TILE, STEP=step, ROWS=max(16, power_of_two(rows)), SPLIT=split,
        DOUBLE=double, DOT=dot_type(g.dtype), num_warps=4, num_stages=3, enable_fp_fusion=False,
    )  # fmt: skip
    return (partial[0] if split == 1 else partial.sum(0)).to(g.dtype)


def is_fused(rows: Tensor, d_in: int, block: int) -> bool:
    """Whether W is unpacked inside the product: for a few rows, and columns that are whole blocks."""
    return (
        use_triton(rows)
        and 0 < len(rows) <= FUSED_ROWS.get(rows.dtype, 0)
        and d_in % block == 0
        and block <= 64  # larger ones spill registers
    )


def fused_linear(
    x: Tensor, packed: Tensor, scales: Tensor, second: Tensor | None, offset: Tensor | None, code: Tensor,
    dynamic: Tensor, shape: tuple[int, int], block: int, up: Tensor | None = None, down: Tensor | None = None,
    tile: int = TILE, programs: int = PROGRAMS,
) -> Tensor:  # fmt: skip
    """x Wᵀ + ``down`` ``up``ᵀ for a few rows; x (rows, d_in), ``up`` (d_out, r), ``down`` (rows, r)."""
    (d_out, d_in), rows = shape, len(x)
    tiles = cdiv(d_out, tile)
    split = max(1, min(16, programs // tiles, d_in // block))
    halves = x.reshape(rows, d_in // 2, 2).permute(2, 0, 1).contiguous()
    partial = torch.empty(split, rows, d_out, dtype=torch.float32, device=x.device)
    double, r = second is not None, 0 if up is None else up.shape[1]
    linear_kernel[(tiles, split)](
        packed, scales, second if double else scales, offset if double else scales, code, dynamic, halves,
        x if up is None else up, x if down is None else down, partial, rows, d_out, d_in, r, BLOCK=block,
        TILE=tile, ROWS=max(16, power_of_two(rows)), RANK=r and max(16, power_of_two(r)), SPLIT=split,
        DOUBLE=double, DOT=dot_type(x.dtype), num_warps=4, num_stages=3, enable_fp_fusion=False,
    )  # fmt: skip
    return (partial[0] if split == 1 else partial.sum(0)).to(x.dtype)


@torch.library.custom_op("course::nf4_linear", mutates_args=())
def nf4_linear(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    second: Tensor | None,
    offset: Tensor | None,
    code: Tensor,
    dynamic: Tensor,
    d_out: int,
    block: int,
    A: Tensor | None = None,
    B: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """x Wᵀ + scale · (x B) Aᵀ (rows, d_out), in x's type; x (rows, d_in), A (d_out, r), B (d_in, r).

    W (d_out, d_in) lies in ``packed``, ``scales``, ``second``, ``offset`` as :func:`nf4_dequantize` says.
    Gradients go to x, A and B.
    """
    d_in = x.shape[1]
    down = None if A is None or B is None else (x @ B.to(x.dtype)).mul_(scale)
    up = None if A is None else A.to(x.dtype)
    if is_fused(x, d_in, block) and (up is None or up.shape[1] <= FUSED_RANK):
        return fused_linear(x, packed, scales, second, offset, code, dynamic, (d_out, d_in), block, up, down)
    weight = nf4_dequantize(packed, scales, second, offset, code, dynamic, d_out * d_in, block, x.dtype)
    y = x @ weight.view(d_out, d_in).T
    return y if up is None or down is None else y.addmm_(down, up.T)


@nf4_linear.register_fake
def _(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    second: Tensor | None,
    offset: Tensor | None,
    code: Tensor,
    dynamic: Tensor,
    d_out: int,
    block: int,
    A: Tensor | None = None,
    B: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    return x.new_empty(x.shape[0], d_out)


@torch.library.custom_op("course::nf4_linear_backward", mutates_args=())
def _input_gradient(
    g: Tensor,
    packed: Tensor,
    scales: Tensor,
    second: Tensor | None,
    offset: Tensor | None,
    code: Tensor,
    dynamic: Tensor,
    d_in: int,
    block: int,
) -> Tensor:
    """g W (rows, d_in). An operation of its own, so that torch.compile does not trace into a launch."""
    shape = g.shape[1], d_in
    if is_fused(g, d_in, block):
        return fused_gradient(g.contiguous(), packed, scales, second, offset, code, dynamic, shape, block)
    weight = nf4_dequantize(packed, scales, second, offset, code, dynamic, shape[0] * d_in, block, g.dtype)
    return g @ weight.view(shape)


@_input_gradient.register_fake
def _(
    g: Tensor,
    packed: Tensor,
    scales: Tensor,
    second: Tensor | None,
    offset: Tensor | None,
    code: Tensor,
    dynamic: Tensor,
    d_in: int,
    block: int,
) -> Tensor:
    return g.new_empty(g.shape[0], d_in)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *weight, _, block, A, B, scale = inputs
    ctx.sizes, ctx.scale, ctx.adapted = (x.shape[1], block), scale, A is not None
    # x only where a gradient of A or B will need it
    ctx.save_for_backward(x if ctx.adapted else None, *weight, A, B)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, *weight, A, B = ctx.saved_tensors
    d_in, block = ctx.sizes
    through = None if A is None else (g @ A.to(g.dtype)).mul_(ctx.scale)
    dx = dA = dB = None
    if ctx.needs_input_grad[0]:
        dx = _input_gradient(g, *weight, d_in, block)
        if through is not None:
            dx = dx.addmm(through, B.to(g.dtype).T)
    if ctx.adapted and ctx.needs_input_grad[9]:
        dA = (g.T @ (x @ B.to(x.dtype)).mul_(ctx.scale)).to(A.dtype)
    if ctx.adapted and ctx.needs_input_grad[10]:
        dB = (x.T @ through).to(B.dtype)
    return dx, None, None, None, None, None, None, None, None, dA, dB, None


nf4_linear.register_autograd(_backward, setup_context=_keep)


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    weight = dict(zip(("packed", "scales", "second", "offset", "code", "dynamic"),
                      ("*u8", "*u8", *["*fp32"] * 4), strict=True))  # fmt: skip
    sizes = dict.fromkeys(("rows", "d_out", "d_in"), "i32")
    made = []
    for dtype, most in FUSED_ROWS.items():
        name = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "fp32")
        for rows in sorted({16, most}):
            shared = {"BLOCK": 64, "ROWS": rows, "SPLIT": 4, "DOUBLE": True, "DOT": dot_type(dtype)}
            forward = {
                **weight, **dict.fromkeys(("x", "up", "down"), f"*{name}"), "out": "*fp32", **sizes,
                "r": "i32",
                **dict.fromkeys(("BLOCK", "TILE", "ROWS", "RANK", "SPLIT", "DOUBLE", "DOT"), "constexpr"),
            }  # fmt: skip
            made.append(
                Case(
                    f"nf4_linear {name}, {rows} rows", linear_kernel, forward,
                    {**shared, "TILE": TILE, "RANK": 16}, wgmma=dtype != torch.float32, fusion=False,
                    multiples=("d_out", "d_in", "r"),
                )
            )  # fmt: skip
            backward = {
                **weight, "g": f"*{name}", "out": "*fp32", **sizes,
                **dict.fromkeys(("BLOCK", "TILE", "STEP", "ROWS", "SPLIT", "DOUBLE", "DOT"), "constexpr"),
            }  # fmt: skip
            made.append(
                Case(
                    f"nf4_linear {name}, {rows} rows, backward", gradient_kernel, backward,
                    {**shared, "TILE": TILE, "STEP": STEP}, wgmma=dtype != torch.float32, fusion=False,
                    multiples=("d_out", "d_in"),
                )
            )  # fmt: skip
    return made
