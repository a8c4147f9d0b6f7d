"""Four bits in five ways, to compare what each loses: NF4, NF4 with double quantisation, FP4, integers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from course_lib.quant.blockwise import dequantize_blockwise, quantize_blockwise
from course_lib.quant.codes import fp4_code, int4_code
from course_lib.quant.nf4 import check_finite, check_weights, dequantize, quantize_nf4

FORMATS = ("NF4", "NF4 with double quantisation", "FP4", "INT4 symmetric", "INT4 asymmetric")
_LEVELS = 15  # steps between the 16 values of an asymmetric block


class FormatError(NamedTuple):
    """What one format costs and what it loses."""

    bits: float  # a parameter, scales included
    mean_absolute: float
    mean_squared: float


def round_trip(w: Tensor, format: str, block_size: int = 64) -> Tensor:
    """``w`` through one of ``FORMATS`` and back, in its own shape and type.

    "INT4 symmetric" has the integers −7 … 7 and a scale for every block, "INT4 asymmetric" 16 even steps
    from the block's smallest number to its largest, which takes two fp32 numbers a block. Raises ValueError
    for another format, and for what ``quantize_nf4`` refuses.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if format.startswith("NF4"):
        return dequantize(quantize_nf4(w, block_size, double_quant=format != "NF4"))
    check_weights(w, block_size)
    flat = w.detach().contiguous().view(-1).float()
    if format == "INT4 asymmetric":
        check_finite(w, flat)
        return _asymmetric(flat, block_size).to(w.dtype).view(w.shape)
    code = fp4_code() if format == "FP4" else int4_code()
    indices, scales = quantize_blockwise(flat, code, block_size)
    check_finite(w, scales)
    return dequantize_blockwise(indices, scales, code, block_size).to(w.dtype).view(w.shape)


def error_table(w: Tensor, block_size: int = 64) -> dict[str, FormatError]:
    """Every format's bits a parameter, and mean absolute and mean squared error on ``w``, added in float64.

    On N(0, 1) the asymmetric integers have the lowest squared error, NF4 the lowest absolute one; with two
    fp32 numbers a block the integers also take half a bit more.
    """
    count, found = max(1, w.numel()), {}
    for name in FORMATS:
        error = round_trip(w, name, block_size).double() - w.detach().double()
        mean = float(error.abs().sum()) / count, float(error.square().sum()) / count
        found[name] = FormatError(_bits(name, w, block_size), *mean)
    return found


def _asymmetric(flat: Tensor, block_size: int) -> Tensor:
    blocks = -(-len(flat) // block_size)
    # the last block's missing numbers repeat its last one, which changes neither end
    padded = torch.cat([flat, flat[-1:].expand(blocks * block_size - len(flat))]).view(blocks, block_size)
    low, high = padded.amin(1, keepdim=True), padded.amax(1, keepdim=True)
    step = (high / _LEVELS - low / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
    level = ((padded - low) / step).round_().clamp_(0, _LEVELS)
    return torch.addcmul(low, level, step).view(-1)[: len(flat)]


def _bits(format: str, w: Tensor, block_size: int) -> float:
    if format.startswith("NF4"):
        return quantize_nf4(w, block_size, double_quant=format != "NF4").bits_per_parameter
    numbers = 2 if format == "INT4 asymmetric" else 1
    blocks = -(-w.numel() // block_size)
    return 8 * (-(-w.numel() // 2) + 4 * numbers * blocks) / max(1, w.numel())
