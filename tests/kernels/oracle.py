"""What a kernel may lose: against float64, four times what torch loses in the same type."""

import torch

from course_lib.quant import quantize_nf4
from course_lib.quant.codes import boundaries, dynamic_code, nf4_code


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative Frobenius error."""
    return float((got.double() - exact).norm() / exact.norm().clamp_min(1e-300))


def close(got: torch.Tensor, torchs: torch.Tensor, exact: torch.Tensor) -> None:
    """``got`` is at most four times as far from ``exact`` as torch's own answer, or one rounding."""
    assert got.dtype == torchs.dtype
    assert got.shape == torchs.shape
    limit = max(4 * error(torchs, exact), torch.finfo(got.dtype).eps)
    assert error(got, exact) <= limit, (
        f"{error(got, exact):.2e} from float64, torch {error(torchs, exact):.2e}"
    )


def quantised(
    shape: tuple[int, ...], dtype: torch.dtype, double: bool = True, block: int = 64, seed: int = 0
):
    """(what a kernel takes: packed, scales, second, offset, code, dynamic), the NF4Tensor, the weight."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    q = quantize_nf4(w, block, double)
    return (q.packed, q.scales, q.second, q.offset, nf4_code(), dynamic_code()), q, w


def middles() -> torch.Tensor:
    """The boundaries of the NF4 code (15,)."""
    return boundaries(nf4_code())
