"""SVFT's product with a banded M: y (tokens, n) → y Mᵀ, from the band's k numbers, without a dense M or W'.

Cell (i, j) of the band, |i − j| ≤ d, stands at a place that arithmetic gives, so no index is read. Traffic:
y once and the result once (2 · tokens · n numbers); the band and the shifted reads come from cache. A dense
M would take n² numbers of memory and 2 · tokens · n² operations in place of 2 · tokens · n (2d + 1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, jit, tl, use_triton

TOKENS, COLUMNS = 32, 64  # of the result, that a program makes


@jit
def place(i, j, n, d):  # type: ignore[no-untyped-def]
    """Where cell (i, j) stands among the band's cells in the order of reading; d < n."""
    top = tl.minimum(i, d)  # rows before i that are cut on the left: by d, d − 1, …
    low = tl.maximum(i - (n - d), 0)  # rows before i that are cut on the right: by 1, 2, …
    start = i * (2 * d + 1) - (top * d - top * (top - 1) // 2) - low * (low + 1) // 2
    return start + j - tl.maximum(i - d, 0)


@jit
def banded_kernel(  # type: ignore[no-untyped-def]
    y,  # (tokens, n)
    values,  # (k,)
    out,  # (tokens, n)
    tokens,
    n,
    d,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TRANSPOSED: tl.constexpr,  # y M instead of y Mᵀ
):
    """A tile of the product, one diagonal of the band after the other."""
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    i = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = t.to(tl.int64)[:, None] * n
    total = tl.zeros((TOKENS, COLUMNS), tl.float32)
    for shift in range(-d, d + 1):
        j = i + shift
        inside = (i < n) & (j >= 0) & (j < n)
        at = place(j, i, n, d) if TRANSPOSED else place(i, j, n, d)
        m = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
        part = tl.load(y + row + j[None, :], mask=(t < tokens)[:, None] & inside[None, :], other=0.0)
        total += part.to(tl.float32) * m[None, :]
    keep = (t < tokens)[:, None] & (i < n)[None, :]
    tl.store(out + row + i[None, :], total.to(out.dtype.element_ty), mask=keep)


@jit
def slope_kernel(  # type: ignore[no-untyped-def]
    gradient,  # (tokens, n)
    y,  # (tokens, n)
    d_values,  # (k,) fp32
    tokens,
    n,
    d,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradients of COLUMNS cells of one diagonal, summed over all tokens."""
    i = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    j = i + tl.program_id(1) - d
    inside = (i < n) & (j >= 0) & (j < n)
    total = tl.zeros((TOKENS, COLUMNS), tl.float32)
    for begin in range(0, tokens, TOKENS):
        t = begin + tl.arange(0, TOKENS)
        row, keep = t.to(tl.int64)[:, None] * n, (t < tokens)[:, None] & inside[None, :]
        g = tl.load(gradient + row + i[None, :], mask=keep, other=0.0).to(tl.float32)
        total += g * tl.load(y + row + j[None, :], mask=keep, other=0.0).to(tl.float32)
    tl.store(d_values + place(i, j, n, d), tl.sum(total, axis=0), mask=inside)


def band(n: int, d: int, device: torch.device | None = None) -> Tensor:
    """The band's cells (2, k), rows and columns, in the order of reading."""
    row = torch.arange(n, device=device).repeat_interleave(2 * d + 1)
    column = row + torch.arange(-d, d + 1, device=device).repeat(n)
    inside = (column >= 0) & (column < n)
    return torch.stack([row[inside], column[inside]])


def reference(y: Tensor, values: Tensor, d: int, transposed: bool = False) -> Tensor:
    """The same with a dense M, in at least fp32."""
    n, wide = y.shape[1], torch.promote_types(y.dtype, torch.float32)
    row, column = band(n, d, y.device)
    M = torch.zeros(n, n, dtype=wide, device=y.device).index_put((row, column), values.to(wide))
    return (y.to(wide) @ (M if transposed else M.T)).to(y.dtype)


def reference_slope(g: Tensor, y: Tensor, d: int) -> Tensor:
    """Gradient (k,) of the band's numbers, by shifts, in at least fp32."""
    wide = torch.promote_types(y.dtype, torch.float32)
    row, column = band(y.shape[1], d, y.device)
    return (g.to(wide).T @ y.to(wide))[row, column]


def _served(y: Tensor) -> bool:
    return use_triton(y) and y.dtype != torch.float64


def _product(y: Tensor, values: Tensor, d: int, transposed: bool) -> Tensor:
    if not _served(y):
        return reference(y, values, d, transposed)
    (tokens, n), out = y.shape, torch.empty_like(y)
    if out.numel():
        banded_kernel[(cdiv(tokens, TOKENS), cdiv(n, COLUMNS))](
            y, values, out, tokens, n, d, TOKENS=TOKENS, COLUMNS=COLUMNS, TRANSPOSED=transposed
        )
    return out


@torch.library.custom_op("course::svft_banded", mutates_args=())
def svft_banded(y: Tensor, values: Tensor, d: int) -> Tensor:
    """y Mᵀ (tokens, n) for y (tokens, n) contiguous, M (n, n) zero but for |i − j| ≤ d, 0 ≤ d < n.

    ``values`` (k,) are M's numbers in the order of reading, k = n(2d + 1) − d(d + 1). Sums are made in fp32.
    Gradients go to y and ``values``. Source: Lingam et al. 2024 (arXiv 2405.19597), SVFT banded.
    """
    n = y.shape[1]
    if not 0 <= d < max(1, n) or len(values) != n * (2 * d + 1) - d * (d + 1):
        raise ValueError(f"a band of {d} on each side of {n} cells has no {len(values)} numbers")
    return _product(y, values, d, False)


@svft_banded.register_fake
def _(y: Tensor, values: Tensor, d: int) -> Tensor:
    return torch.empty_like(y)


@torch.library.custom_op("course::svft_banded_backward", mutates_args=())
def _gradients(
    g: Tensor, y: Tensor, values: Tensor, d: int, for_y: bool, for_values: bool
) -> tuple[Tensor, Tensor]:
    g, (tokens, n) = g.contiguous(), y.shape
    d_y = _product(g, values, d, True) if for_y else y.new_empty(0)
    if not for_values:
        return d_y, values.new_empty(0)
    if not _served(y):
        return d_y, reference_slope(g, y, d).to(values.dtype)
    made = torch.zeros(len(values), dtype=torch.float32, device=y.device)
    if y.numel():
        slope_kernel[(cdiv(n, COLUMNS), 2 * d + 1)](g, y, made, tokens, n, d, TOKENS=TOKENS, COLUMNS=COLUMNS)
    return d_y, made.to(values.dtype)


@_gradients.register_fake
def _(g: Tensor, y: Tensor, values: Tensor, d: int, for_y: bool, for_values: bool) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(y) if for_y else y.new_empty(0),
        torch.empty_like(values) if for_values else values.new_empty(0),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    y, values, ctx.d = inputs
    ctx.save_for_backward(y if ctx.needs_input_grad[1] else y.new_empty((0, y.shape[1])), values)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    y, values = ctx.saved_tensors
    for_y, for_values = ctx.needs_input_grad[:2]
    d_y, d_values = _gradients(g, y if for_values else torch.empty_like(g), values, ctx.d, for_y, for_values)
    return d_y if for_y else None, d_values if for_values else None, None


svft_banded.register_autograd(_backward, setup_context=_keep)


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    made = []
    for name in ("fp32", "bf16", "fp16"):
        sizes = {**dict.fromkeys(("tokens", "n", "d"), "i32"), "TOKENS": "constexpr", "COLUMNS": "constexpr"}
        tiles: dict[str, Any] = {"TOKENS": TOKENS, "COLUMNS": COLUMNS}
        forward = {**dict.fromkeys(("y", "values", "out"), f"*{name}"), **sizes, "TRANSPOSED": "constexpr"}
        backward = {"gradient": f"*{name}", "y": f"*{name}", "d_values": "*fp32", **sizes}
        made += [
            Case(f"svft_banded {name}", banded_kernel, forward, {**tiles, "TRANSPOSED": False}),
            Case(f"svft_banded {name}, to y", banded_kernel, forward, {**tiles, "TRANSPOSED": True}),
            Case(f"svft_banded {name}, to M", slope_kernel, backward, tiles),
        ]
    return made
