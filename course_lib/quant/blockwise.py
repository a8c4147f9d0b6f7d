"""Blockwise quantisation: a block of numbers is divided by its largest magnitude, then rounded to a code."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from course_lib.quant.codes import boundaries, placed

CHUNK = 1 << 18  # numbers at a time: 1 MB of fp32, which stays in a core's cache
_TINY = 1e-38  # of an all-zero block, whose quotient is then 0


def quantize_blockwise(values: Tensor, code: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Indices into ``code`` (n,) uint8 and each block's largest magnitude (⌈n / block⌉,) fp32.

    ``values`` (n,) of any float type; the last block may be shorter. Numbers are multiplied by the reciprocal
    of the magnitude, as the usual libraries do: dividing would now and then round to another index. A block
    with a NaN or an infinity has that as its magnitude.
    """
    n = values.numel()
    indices = torch.empty(n, dtype=torch.uint8, device=values.device)
    largest = torch.empty(-(-n // block), dtype=torch.float32, device=values.device)
    nearest = Nearest(code, values.device)
    step = max(block, CHUNK // block * block)
    for begin in range(0, n, step):
        part = values[begin : begin + step].float()
        full = part.numel() // block * block
        first = begin // block
        if full:
            blocks = part[:full].view(-1, block)
            peak = blocks.abs().amax(dim=1)
            scaled = blocks * (1.0 / peak.clamp(min=_TINY))[:, None]
            nearest(scaled.view(-1), indices[begin : begin + full])
            largest[first : first + len(peak)] = peak
        if full < part.numel():
            rest = part[full:]
            peak = rest.abs().amax()
            scaled = (rest / peak.clamp(min=_TINY)).clamp_(-1, 1)
            nearest(scaled, indices[begin + full : begin + part.numel()])
            largest[first + full // block] = peak
    return indices, largest


def plain_nearest(values: Tensor, code: Tensor) -> Tensor:
    """How many middles between values of the code lie below each number: what ``Nearest`` computes faster."""
    return torch.bucketize(values, boundaries(code)).to(torch.uint8)


class Nearest:
    """The index of the nearest value of a code, by table instead of by search: twelve times as fast on a CPU.

    The upper 16 bits of an fp32 number name a cell, between whose ends at most one boundary of the code lies.
    One table holds how many boundaries lie below the cell, another the boundary in it (or infinity).
    """

    def __init__(self, code: Tensor, device: torch.device | None = None):
        self.below, self.inside = _cells(code, device or code.device)

    def __call__(self, values: Tensor, out: Tensor) -> None:
        """Indices of the values nearest to ``values`` (n,) fp32, into ``out`` (n,) uint8."""
        cell = (values.view(torch.int32) >> 16).add_(1 << 15)
        torch.index_select(self.below, 0, cell, out=out)
        out.add_((values > self.inside.index_select(0, cell)).view(torch.uint8))


def tables(code: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """What is kept on a device, once for all, to quantise to a code and back: 321 KB."""
    return placed(code, device), *_cells(code, device)


@lru_cache(maxsize=16)
def _cells(code: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every cell (65536,): boundaries below it, uint8, and the one within it, fp32."""
    bounds = boundaries(code).to(device)
    upper = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32, device=device)
    lowest = (upper << 16).view(torch.float32)
    home = (bounds.view(torch.int32) >> 16).long() + (1 << 15)
    if len(home.unique()) < len(home):
        raise ValueError("two values of the code are too close together to be told apart by 16 bits")
    below = torch.bucketize(lowest, bounds)
    below[home] = torch.arange(len(bounds), device=device)
    inside = torch.full((1 << 16,), torch.inf, device=device)
    inside[home] = bounds
    return below.to(torch.uint8), inside


_GRID = 65536  # places of the 16-bit grid on which bitsandbytes looks its 8-bit codes up


def quantize_scales(values: Tensor, code: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """As ``quantize_blockwise``, but on a 16-bit grid over −1 … 1, as bitsandbytes' CPU library does.

    A number that lies between two values of the code can thus end at the farther one, by less than 1/32768.
    An all-zero block gets the first index; its magnitude of 0 makes it 0 again.
    """
    nearest = _on_grid(code, values.device)
    n, blocks = values.numel(), -(-values.numel() // block)
    padded = torch.nn.functional.pad(values.float(), (0, blocks * block - n)).view(blocks, block)
    largest = padded.abs().amax(dim=1)
    at = ((padded * (1.0 / largest)[:, None] + 1) * 32767.5 + 0.5).floor()
    index = nearest[at.nan_to_num(0.0).clamp_(0, _GRID - 1).long()]
    # a copy where it is shorter: a view would keep the padding, and the bytes are counted
    return index.view(-1)[:n].clone() if n < index.numel() else index.view(-1), largest


@lru_cache(maxsize=4)
def _on_grid(code: Tensor, device: torch.device) -> Tensor:
    """The nearest index of every place of the grid (65536,)."""
    place = torch.arange(_GRID, dtype=torch.float64) / 32767.5 - 1
    return torch.bucketize(place.float(), boundaries(code)).to(torch.uint8).to(device)


def dequantize_blockwise(indices: Tensor, largest: Tensor, code: Tensor, block: int) -> Tensor:
    """code[index] · largest of its block, in fp32 (n,)."""
    values = placed(code, indices.device).index_select(0, indices.int())
    full = values.numel() // block * block
    values[:full].view(-1, block).mul_(largest[: full // block, None])
    if full < values.numel():
        values[full:].mul_(largest[-1])
    return values
