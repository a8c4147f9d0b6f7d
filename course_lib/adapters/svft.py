"""SVFT (Lingam et al. 2024, NeurIPS, arXiv 2405.19597): ΔW = U M Vᵀ, where M (n, n) has few trained cells.

U and V are W's own singular vectors and stay frozen. Which cells of M are trained is the pattern: the
diagonal, a band round it, random ones, or those whose singular vectors are most alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.adapters.base import ALL_LINEAR, Adapter, Footprint, Spec, wide
from course_lib.adapters.linear import dense_weight
from course_lib.adapters.spectrum import Spectrum, all_triplets
from course_lib.catalog import LinearShape

if TYPE_CHECKING:
    from course_lib.kernels.svft_sparse import Layout

PATTERNS = ("plain", "banded", "random", "top_k")


def cell_count(n: int, off_diagonals: int) -> int:
    """Trained cells of M (n, n): n(2d + 1) − d(d + 1), a diagonal and d more on each side; random and
    top-k too.
    """
    d = min(off_diagonals, n - 1)
    return n * (2 * d + 1) - d * (d + 1)


@dataclass(frozen=True)
class SVFT(Spec):
    """``off_diagonals`` d on each side (0 for "plain") sets the number of cells of every pattern.

    "random" draws its cells without replacement, the same for a given ``seed``; "top_k" takes the largest
    |uᵢᵀ vⱼ|. ``start`` "zero" is an exact no-op; "paper" is the authors' code: values of N(0, 2/k) on k
    cells, times sigmoid(g) with one more trained number g = 0 a map, so ‖M‖_F ≈ 0.707 before the first
    step.
    """

    pattern: Literal["plain", "banded", "random", "top_k"] = "plain"
    off_diagonals: int = 0
    targets: tuple[str, ...] = ALL_LINEAR
    start: Literal["zero", "paper"] = "zero"
    seed: int = 0
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern not in PATTERNS or self.start not in ("zero", "paper"):
            raise ValueError(
                f"pattern must be one of {', '.join(PATTERNS)} and start 'zero' or 'paper', "
                f"got {self.pattern!r} and {self.start!r}"
            )
        d = self.off_diagonals
        if not isinstance(d, int) or isinstance(d, bool) or d < 0 or (self.pattern == "plain" and d):
            raise ValueError(
                f"off_diagonals must be an integer of at least 0, and 0 for the plain pattern, got {d!r}"
            )

    def footprint(self, shape: LinearShape, path: str | None = None) -> Footprint:
        n = min(shape.d_in, shape.d_out)
        cells, gated = cell_count(n, self.off_diagonals), self.start == "paper"
        trained, frozen = (cells, 1) if gated else (cells,), n * (shape.d_in + shape.d_out)
        kept = (cells + 1) * gated
        return Footprint(trained, frozen, 2 * cells, keeps_input=False, per_token=n, per_step=kept)

    def make(self, name: str, linear: nn.Module) -> SVFTAdapter:
        weight = dense_weight(linear)
        found = all_triplets(weight)
        cells = pattern_cells(self.pattern, len(found.S), self.off_diagonals, self.seed, found)
        adapter = SVFTAdapter(
            found.U, found.V, cells, self.dtype or weight.dtype, gated=self.start == "paper"
        )
        if self.start == "paper":
            nn.init.normal_(adapter.m, std=(2 / len(adapter.m)) ** 0.5)
        return adapter


def pattern_cells(
    pattern: str, n: int, off_diagonals: int, seed: int = 0, found: Spectrum | None = None
) -> Tensor:
    """The trained cells of M (n, n): (2, k) int64, rows and columns, in the order of reading.

    "top_k" needs the singular vectors; where d_out ≠ d_in, u and v are compared on the coordinates they share
    (the paper defines the pattern for square weights only).
    """
    count = cell_count(n, off_diagonals)
    if found is not None and found.U.is_meta:
        return torch.empty(2, count, dtype=torch.long, device="meta")
    if pattern in ("plain", "banded"):
        row = torch.arange(n).repeat_interleave(2 * off_diagonals + 1)
        column = row + torch.arange(-off_diagonals, off_diagonals + 1).repeat(n)
        inside = (column >= 0) & (column < n)
        return torch.stack([row[inside], column[inside]])
    if pattern == "random":
        flat = np.random.default_rng(seed).choice(n * n, size=count, replace=False, shuffle=False)
        index = torch.from_numpy(np.sort(flat))
    else:
        assert found is not None
        shared = min(len(found.U), len(found.V))
        index = (
            (found.U[:shared].T @ found.V[:shared]).abs().flatten().topk(count).indices.sort().values.cpu()
        )
    return torch.stack([index // n, index % n])


class SVFTAdapter(Adapter):
    """m (k,) on the cells of M; U (d_out, n), V (d_in, n) and the cells (2, k) are frozen."""

    U: Tensor
    V: Tensor
    cells: Tensor

    def __init__(self, U: Tensor, V: Tensor, cells: Tensor, dtype: torch.dtype, gated: bool = False):
        super().__init__()
        for name, value in (("U", U.to(dtype)), ("V", V.to(dtype)), ("cells", cells.to(U.device))):
            self.register_buffer(name, value, persistent=False)
        n = U.shape[1]
        self.band = band_of(cells, n)
        self.layout: Layout | None = None  # of other cells, for a GPU; made when first needed
        self.m = nn.Parameter(torch.zeros(cells.shape[1], dtype=dtype, device=U.device))
        self.g = nn.Parameter(torch.zeros(1, dtype=dtype, device=U.device)) if gated else None

    def values(self) -> Tensor:
        """What stands in the cells (k,)."""
        return self.m if self.g is None else self.m * torch.sigmoid(self.g)

    def M(self) -> Tensor:
        """The matrix between the singular vectors (n, n), with its zeros."""
        return _dense(self.cells, wide(self.values()), self.U.shape[1])

    def factors(self) -> tuple[Tensor, Tensor]:
        return wide(self.U) @ self.M(), wide(self.V)

    def delta(self) -> Tensor:
        A, B = self.factors()
        return A @ B.T

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        y = x.to(self.V.dtype) @ self.V  # (…, n)
        if self.band == 0:
            y = y * self.values()
        elif y.is_cuda:
            y = self._by_kernels(y.flatten(0, -2).contiguous(), self.values().to(y.dtype)).view_as(y)
        else:
            y = _Cells.apply(y, self.values().to(y.dtype), self.cells)  # type: ignore[no-untyped-call]
        return (base + y @ self.U.T).to(base.dtype)

    def _by_kernels(self, y: Tensor, values: Tensor) -> Tensor:
        """y Mᵀ without M; y (tokens, n)."""
        from course_lib.kernels import svft_banded, svft_sparse
        from course_lib.kernels.svft_sparse import layout

        if self.band is not None:
            return svft_banded(y, values, self.band)  # type: ignore[no-any-return]
        if self.layout is None or self.layout.rows.device != y.device:
            self.layout = layout(self.cells, y.shape[1])
        return svft_sparse(y, values, *self.layout)  # type: ignore[no-any-return]

    def mixed(self, adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter | None:
        """U (Σ wᵢ Mᵢ) Vᵀ; adapters with other cells share the subspace too, and M then holds the union."""
        same = [a for a in adapters if isinstance(a, SVFTAdapter) and torch.equal(a.V, self.V)]
        if len(same) < len(adapters):
            return None
        n = self.U.shape[1]
        flat = [a.cells[0] * n + a.cells[1] for a in same]
        union, place = torch.unique(torch.cat(flat), return_inverse=True)
        result = SVFTAdapter(self.U, self.V, torch.stack([union // n, union % n]), self.V.dtype)
        parts = [weight * wide(a.values().detach()) for weight, a in zip(weights, same, strict=True)]
        total = torch.zeros(len(union), dtype=parts[0].dtype, device=union.device)
        result.m.data.copy_(total.index_add_(0, place, torch.cat(parts)))
        return result


def band_of(cells: Tensor, n: int) -> int | None:
    """How far a band reaches on each side of the diagonal, where ``cells`` (2, k), all different, are one."""
    if cells.is_meta or not cells.numel():
        return None
    reach = int((cells[0] - cells[1]).abs().max())
    return reach if cells.shape[1] == cell_count(n, reach) else None


def _dense(cells: Tensor, values: Tensor, n: int) -> Tensor:
    return values.new_zeros(n, n).index_put((cells[0], cells[1]), values)


class _Cells(torch.autograd.Function):
    """y (…, n) → y Mᵀ. Keeps y and the k values for the backward pass, never M (n², mostly zeros)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, values: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(y, values, cells)
        return y @ _dense(cells, values, y.shape[-1]).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        y, values, cells = ctx.saved_tensors
        (g,) = gradients
        grad_y = g @ _dense(cells, values, y.shape[-1]) if ctx.needs_input_grad[0] else None
        grad_M = g.flatten(0, -2).T @ y.flatten(0, -2)  # (n, n)
        return grad_y, grad_M[cells[0], cells[1]], None
