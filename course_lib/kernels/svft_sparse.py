"""SVFT's product with any k cells of M: y (tokens, n) → y Mᵀ, row by row of M, without a dense M or W'.

A program makes some tokens of some columns of the result; their rows of y, read cell by cell in M's order,
stay in the nearest cache (8 KB for 4096 numbers of 16 bits). Traffic: y and the result once, and 8 bytes a
cell for every group of tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, jit, tl, use_triton

TOKENS, COLUMNS = 16, 64  # of the result, that a program makes
CELLS = 64  # whose gradients a program makes


class Layout(NamedTuple):
    """Where cells (2, k), given in the order of reading, begin by rows and by columns."""

    rows: Tensor  # (k,) int32, row of every cell
    columns: Tensor  # (k,) int32
    row_starts: Tensor  # (n + 1,) int32: cells of row i are row_starts[i] … row_starts[i + 1] − 1
    column_starts: Tensor  # (n + 1,) int32, the same for the order by columns
    by_column: Tensor  # (k,) int32: the cells in the order by columns


def layout(cells: Tensor, n: int) -> Layout:
    """Both orders of ``cells`` (2, k), which are sorted by rows; made once for a pattern."""
    rows, columns = cells
    if bool((rows[1:] < rows[:-1]).any()):
        raise ValueError("cells must stand in the order of reading: sort them by row")
    ends = torch.arange(n + 1, device=cells.device)
    order = torch.argsort(columns, stable=True)
    found = (
        rows, columns, torch.searchsorted(rows.contiguous(), ends),
        torch.searchsorted(columns[order].contiguous(), ends), order,
    )  # fmt: skip
    return Layout(*(part.to(torch.int32).contiguous() for part in found))


@jit
def sparse_kernel(  # type: ignore[no-untyped-def]
    y,  # (tokens, n)
    values,  # (k,)
    starts,  # (n + 1,) int32
    others,  # (k,) int32: the column that a cell reads
    order,  # (k,) int32, if ORDERED: places in ``values`` and ``others``
    out,  # (tokens, n)
    tokens,
    n,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ORDERED: tl.constexpr,
):
    """A tile of the product: the first cell of each of its columns, then the second, and so on."""
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    i = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin = tl.load(starts + i, mask=i < n, other=0)
    end = tl.load(starts + i + 1, mask=i < n, other=0)
    row = t.to(tl.int64)[:, None] * n
    total = tl.zeros((TOKENS, COLUMNS), tl.float32)
    for step in range(0, tl.max(end - begin, axis=0)):
        at, inside = begin + step, begin + step < end
        if ORDERED:
            at = tl.load(order + at, mask=inside, other=0)
        j = tl.load(others + at, mask=inside, other=0)
        m = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
        part = tl.load(y + row + j[None, :], mask=(t < tokens)[:, None] & inside[None, :], other=0.0)
        total += part.to(tl.float32) * m[None, :]
    keep = (t < tokens)[:, None] & (i < n)[None, :]
    tl.store(out + row + i[None, :], total.to(out.dtype.element_ty), mask=keep)


@jit
def slope_kernel(  # type: ignore[no-untyped-def]
    gradient,  # (tokens, n)
    y,  # (tokens, n)
    rows,  # (k,) int32
    columns,  # (k,) int32
    d_values,  # (k,) fp32
    tokens,
    n,
    cells,
    TOKENS: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Gradients of CELLS cells, summed over all tokens."""
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    inside = cell < cells
    i = tl.load(rows + cell, mask=inside, other=0)[None, :]
    j = tl.load(columns + cell, mask=inside, other=0)[None, :]
    total = tl.zeros((TOKENS, CELLS), tl.float32)
    for begin in range(0, tokens, TOKENS):
        t = begin + tl.arange(0, TOKENS)
        row, keep = t.to(tl.int64)[:, None] * n, (t < tokens)[:, None] & inside[None, :]
        g = tl.load(gradient + row + i, mask=keep, other=0.0).to(tl.float32)
        total += g * tl.load(y + row + j, mask=keep, other=0.0).to(tl.float32)
    tl.store(d_values + cell, tl.sum(total, axis=0), mask=inside)


def reference(y: Tensor, values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same with a dense M, in at least fp32; with rows and columns exchanged, y M."""
    n, wide = y.shape[1], torch.promote_types(y.dtype, torch.float32)
    M = torch.zeros(n, n, dtype=wide, device=y.device)
    M = M.index_put((rows.long(), columns.long()), values.to(wide))
    return (y.to(wide) @ M.T).to(y.dtype)


def reference_slope(g: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Gradient (k,) of the cells, in at least fp32."""
    wide = torch.promote_types(y.dtype, torch.float32)
    return (g.to(wide).T @ y.to(wide))[rows.long(), columns.long()]


def _served(y: Tensor) -> bool:
    return use_triton(y) and y.dtype != torch.float64


def _launch(y: Tensor, values: Tensor, starts: Tensor, others: Tensor, order: Tensor | None) -> Tensor:
    (tokens, n), out = y.shape, torch.empty_like(y)
    if out.numel():
        sparse_kernel[(cdiv(tokens, TOKENS), cdiv(n, COLUMNS))](
            y, values, starts, others, others if order is None else order, out, tokens, n, TOKENS=TOKENS,
            COLUMNS=COLUMNS, ORDERED=order is not None,
        )  # fmt: skip
    return out


@torch.library.custom_op("course::svft_sparse", mutates_args=())
def svft_sparse(
    y: Tensor,
    values: Tensor,
    rows: Tensor,
    columns: Tensor,
    row_starts: Tensor,
    column_starts: Tensor,
    by_column: Tensor,
) -> Tensor:
    """y Mᵀ (tokens, n) for y (tokens, n) contiguous and M (n, n) with ``values`` (k,) in some cells.

    What follows ``values`` is the cells' :func:`layout`, made once. Sums are made in fp32. Gradients go to y
    and ``values``. Source: Lingam et al. 2024 (arXiv 2405.19597), SVFT random and top-k.
    """
    if not _served(y):
        return reference(y, values, rows, columns)
    return _launch(y, values, row_starts, columns, None)


@svft_sparse.register_fake
def _(
    y: Tensor, values: Tensor, rows: Tensor, columns: Tensor, row_starts: Tensor, column_starts: Tensor,
    by_column: Tensor,
) -> Tensor:  # fmt: skip
    return torch.empty_like(y)


@torch.library.custom_op("course::svft_sparse_backward", mutates_args=())
def _gradients(
    g: Tensor, y: Tensor, values: Tensor, rows: Tensor, columns: Tensor, column_starts: Tensor,
    by_column: Tensor, for_y: bool, for_values: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    g, d_y, d_values = g.contiguous(), g.new_empty(0), values.new_empty(0)
    if for_y and _served(g):
        d_y = _launch(g, values, column_starts, rows, by_column)
    elif for_y:
        d_y = reference(g, values, columns, rows)
    if for_values and _served(g):
        made = torch.zeros(len(values), dtype=torch.float32, device=g.device)
        if g.numel() and len(values):
            slope_kernel[(cdiv(len(values), CELLS),)](
                g, y, rows, columns, made, *y.shape, len(values), TOKENS=TOKENS, CELLS=CELLS
            )
        d_values = made.to(values.dtype)
    elif for_values:
        d_values = reference_slope(g, y, rows, columns).to(values.dtype)
    return d_y, d_values


@_gradients.register_fake
def _(
    g: Tensor, y: Tensor, values: Tensor, rows: Tensor, columns: Tensor, column_starts: Tensor,
    by_column: Tensor, for_y: bool, for_values: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return (
        torch.empty_like(g) if for_y else g.new_empty(0),
        torch.empty_like(values) if for_values else values.new_empty(0),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    y, values, rows, columns, _, column_starts, by_column = inputs
    kept = y if ctx.needs_input_grad[1] else y.new_empty(0)  # y is needed for the gradient of values alone
    ctx.save_for_backward(kept, values, rows, columns, column_starts, by_column)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    for_y, for_values = ctx.needs_input_grad[:2]
    d_y, d_values = _gradients(g, *ctx.saved_tensors, for_y, for_values)
    return d_y if for_y else None, d_values if for_values else None, None, None, None, None, None


svft_sparse.register_autograd(_backward, setup_context=_keep)


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    made = []
    for name in ("fp32", "bf16", "fp16"):
        forward = {
            "y": f"*{name}", "values": f"*{name}", **dict.fromkeys(("starts", "others", "order"), "*i32"),
            "out": f"*{name}", "tokens": "i32", "n": "i32",
            **dict.fromkeys(("TOKENS", "COLUMNS", "ORDERED"), "constexpr"),
        }  # fmt: skip
        backward = {
            "gradient": f"*{name}", "y": f"*{name}", "rows": "*i32", "columns": "*i32", "d_values": "*fp32",
            **dict.fromkeys(("tokens", "n", "cells"), "i32"), "TOKENS": "constexpr", "CELLS": "constexpr",
        }  # fmt: skip
        tiles: dict[str, Any] = {"TOKENS": TOKENS, "COLUMNS": COLUMNS}
        made += [
            Case(f"svft_sparse {name}", sparse_kernel, forward, {**tiles, "ORDERED": False}),
            Case(f"svft_sparse {name}, to y", sparse_kernel, forward, {**tiles, "ORDERED": True}),
            Case(f"svft_sparse {name}, to M", slope_kernel, backward, {"TOKENS": TOKENS, "CELLS": CELLS}),
        ]
    return made
