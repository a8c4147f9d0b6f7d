"""The values that a few bits can stand for: NF4 from normal quantiles, FP4, INT4, the 8-bit map of scales."""

from __future__ import annotations

from functools import cache, lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

# Between 1 − 1/32 and 1 − 1/30: the quantile that the largest value stands for, half way between those of
# 16 and of 15 equal parts of the normal distribution (Dettmers et al. 2023, QLoRA, section 3 and appendix E).
OUTERMOST = 0.9677083


@cache
def nf4_code() -> Tensor:
    """The 16 values (16,) of 4-bit NormalFloat, from −1 to 1: quantiles of N(0, 1), divided by the largest.

    Seven below zero, zero itself, eight above: zero is exact, so padding stays zero, and the two halves have
    a step size of their own.
    """
    normal = NormalDist()

    def quantiles(count: int) -> list[float]:
        points = torch.linspace(OUTERMOST, 0.5, count + 1)[:-1].tolist()
        return [normal.inv_cdf(point) for point in points]

    values = torch.tensor(sorted([*quantiles(8), 0.0, *(-value for value in quantiles(7))]))
    return values / values.max()


@cache
def fp4_code() -> Tensor:
    """4-bit floats (16,) with one sign, two exponent bits and one of mantissa, scaled to −1 … 1, in order."""
    positive = torch.tensor([0.0625 / 12, 2 / 12, 3 / 12, 4 / 12, 6 / 12, 8 / 12, 1.0])
    return torch.cat([-positive.flip(0), torch.zeros(2), positive])


@cache
def int4_code() -> Tensor:
    """Integers −7 … 7 over 7 (15,): the symmetric grid."""
    return torch.arange(-7, 8) / 7


@cache
def dynamic_code() -> Tensor:
    """The 256 values of the signed 8-bit dynamic map (Dettmers et al. 2022, arXiv 2110.02861, section 1.2).

    Seven powers of ten; the larger one is, the more of the bits are left to divide it evenly. Each value is
    the middle of one of the equal parts between 0.1 and 1 of its power.
    """
    middles = [part for k in range(7) for part in _middles(k, 2**k)]
    return torch.tensor(sorted([0.0, 1.0, *middles, *(-part for part in middles)]))


@cache
def unsigned_dynamic_code() -> Tensor:
    """The same without a sign, for what is never negative: twice as many values (256,) from 0 to 1."""
    middles = [part for k in range(7) for part in _middles(k, 2 ** (k + 1))]
    return torch.tensor(sorted([0.0, 1.0, *middles]))


def _middles(k: int, parts: int) -> list[float]:
    """Middles of equal parts of 10^(k − 7) … 10^(k − 6)."""
    ends = torch.linspace(0.1, 1, parts + 1)
    return (10.0 ** (k - 6) * ((ends[:-1] + ends[1:]) / 2)).tolist()  # type: ignore[no-any-return]


def boundaries(code: Tensor) -> Tensor:
    """Where the nearest value changes: the middles between neighbours (n − 1,)."""
    return (code[:-1] + code[1:]) / 2


@lru_cache(maxsize=32)
def placed(code: Tensor, device: torch.device) -> Tensor:
    """A code on a device, copied there once."""
    return code.to(device)
