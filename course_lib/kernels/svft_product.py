"""SVFT's middle matrix, M (n, n) with k trained cells, applied to rows: y → y Mᵀ, and its gradients.

Neither M nor W' = W + U M Vᵀ is built: work and memory go with the k cells. A band is read along its
diagonals, which lie side by side; random cells are fetched one by one, from rows that the cache holds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, jit, tl, use_triton

TOKENS, WIDTH = 16, 128  # tokens and rows of M a program has
CELLS = 256  # cells whose gradient a program sums up


class Cells(NamedTuple):
    """Where the trained cells of M are, by rows and by columns."""

    start: Tensor  # (n + 1,) int32: the cells of row i are start[i] … start[i + 1] − 1
    column: Tensor  # (k,) int32
    row: Tensor  # (k,) int32
    start_t: Tensor  # (n + 1,) int32, the same of Mᵀ
    column_t: Tensor  # (k,) int32
    order: Tensor  # (k,) int64: the cells in Mᵀ's order


def cells_of(cells: Tensor, n: int) -> Cells:
    """From (2, k) rows and columns in the order of reading. Raises ValueError for another order or twins."""
    row, column = cells.long()
    flat = row * n + column
    if len(flat) > 1 and not bool((flat[1:] > flat[:-1]).all()):
        raise ValueError("cells must be in the order of reading, row by row, each once")
    order = torch.argsort(column * n + row)

    def starts(index: Tensor) -> Tensor:
        count = torch.bincount(index, minlength=n)
        return torch.nn.functional.pad(count.cumsum(0), (1, 0)).int()

    return Cells(starts(row), column.int(), row.int(), starts(column), row[order].int(), order)


@jit
def apply_kernel(  # type: ignore[no-untyped-def]
    y,  # (tokens, n)
    values,  # (k,)
    start,
    column,
    out,  # (tokens, n)
    tokens,
    n,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """WIDTH rows of M for TOKENS tokens: each row's next cell, until the longest is through."""
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    i = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    first = tl.load(start + i, mask=i < n, other=0)
    count = tl.load(start + i + 1, mask=i < n, other=0) - first
    place = y + t.to(tl.int64)[:, None] * n
    total = tl.zeros((TOKENS, WIDTH), tl.float32)
    for step in range(0, tl.max(count, axis=0)):
        more = step < count
        value = tl.load(values + first + step, mask=more, other=0.0).to(tl.float32)
        j = tl.load(column + first + step, mask=more, other=0)
        seen = tl.load(place + j[None, :], mask=(t[:, None] < tokens) & more[None, :], other=0.0)
        total += value[None, :] * seen.to(tl.float32)
    to = out + t.to(tl.int64)[:, None] * n + i[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=(t[:, None] < tokens) & (i[None, :] < n))


@jit
def cells_kernel(  # type: ignore[no-untyped-def]
    g,  # (tokens, n), the gradient of the product
    y,  # (tokens, n)
    row,
    column,
    out,  # (splits, k) fp32
    tokens,
    n,
    k,
    share,  # tokens a split
    CELLS: tl.constexpr,
):
    """CELLS cells over one share of the tokens: Σ g[t, row] · y[t, column]."""
    c = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    i, j = tl.load(row + c, mask=c < k, other=0), tl.load(column + c, mask=c < k, other=0)
    total = tl.zeros((CELLS,), tl.float32)
    first = tl.program_id(1) * share
    for t in range(first, min(first + share, tokens)):
        place = tl.cast(t, tl.int64) * n
        left = tl.load(g + place + i, mask=c < k, other=0.0).to(tl.float32)
        total += left * tl.load(y + place + j, mask=c < k, other=0.0).to(tl.float32)
    tl.store(out + tl.program_id(1).to(tl.int64) * k + c, total, mask=c < k)


def reference(y: Tensor, values: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """y Mᵀ in PyTorch, by way of M (n, n)."""
    n = y.shape[1]
    return y @ values.new_zeros(n, n).index_put((row.long(), column.long()), values).T


def product(y: Tensor, values: Tensor, start: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """y Mᵀ (tokens, n), by the kernel where there is a GPU."""
    if not use_triton(y) or y.dtype == torch.float64:
        return reference(y, values, row, column)
    out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    grid = (cdiv(len(y), TOKENS), cdiv(y.shape[1], WIDTH))
    apply_kernel[grid](y, values, start, column, out, *y.shape, TOKENS=TOKENS, WIDTH=WIDTH, num_warps=4)
    return out


def cell_gradients(g: Tensor, y: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Σ over tokens of g[:, row] · y[:, column] (k,), in fp32 or wider."""
    if not use_triton(y) or y.dtype == torch.float64:
        return (g.mT @ y)[row.long(), column.long()]
    k, tokens = len(row), len(y)
    share = max(64, cdiv(tokens, 64))
    partial = torch.empty(cdiv(tokens, share), k, dtype=torch.float32, device=y.device)
    cells_kernel[(cdiv(k, CELLS), len(partial))](
        g, y, row, column, partial, tokens, y.shape[1], k, share, CELLS=CELLS, num_warps=4
    )
    return partial.sum(0)


@torch.library.custom_op("course::svft_product", mutates_args=())
def _product(
    y: Tensor,
    values: Tensor,
    start: Tensor,
    column: Tensor,
    row: Tensor,
    start_t: Tensor,
    column_t: Tensor,
    order: Tensor,
) -> Tensor:
    return product(y, values, start, column, row)


@_product.register_fake
def _(
    y: Tensor,
    values: Tensor,
    start: Tensor,
    column: Tensor,
    row: Tensor,
    start_t: Tensor,
    column_t: Tensor,
    order: Tensor,
) -> Tensor:
    return torch.empty_like(y)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    y, values, _, column, row, start_t, column_t, order = ctx.saved_tensors
    g = g.contiguous()
    d_y = d_values = None
    if ctx.needs_input_grad[0]:
        d_y = product(g, values[order].contiguous(), start_t, column_t, column[order])
    if ctx.needs_input_grad[1]:
        d_values = cell_gradients(g, y, row, column).to(values.dtype)
    return d_y, d_values, None, None, None, None, None, None


_product.register_autograd(_backward, setup_context=_keep)


def svft_product(y: Tensor, values: Tensor, cells: Cells) -> Tensor:
    """y Mᵀ (…, n) for y (…, n), M (n, n) having ``values`` (k,) in its ``cells`` and zeros elsewhere.

    Gradients go to y and ``values``.
    """
    n = len(cells.start) - 1
    if y.shape[-1] != n or values.shape != cells.column.shape:
        raise ValueError(
            f"M has {n} columns and {len(cells.column)} cells, got rows of {y.shape[-1]} and "
            f"{tuple(values.shape)} values"
        )
    rows = y.reshape(-1, n).contiguous()
    out: Tensor = _product(
        rows, values, cells.start, cells.column, cells.row, cells.start_t, cells.column_t, cells.order
    )
    return out.view(y.shape)


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    made = []
    for name in ("fp32", "bf16", "fp16"):
        made.append(
            Case(
                f"svft_product {name}",
                apply_kernel,
                {
                    "y": f"*{name}", "values": f"*{name}", "start": "*i32", "column": "*i32", "out": f"*{name}",
                    "tokens": "i32", "n": "i32", "TOKENS": "constexpr", "WIDTH": "constexpr",
                },
                {"TOKENS": TOKENS, "WIDTH": WIDTH},
            )
        )  # fmt: skip
        made.append(
            Case(
                f"svft_product {name}, cells",
                cells_kernel,
                {
                    "g": f"*{name}", "y": f"*{name}", "row": "*i32", "column": "*i32", "out": "*fp32",
                    **dict.fromkeys(("tokens", "n", "k", "share"), "i32"), "CELLS": "constexpr",
                },
                {"CELLS": CELLS},
            )
        )  # fmt: skip
    return made
