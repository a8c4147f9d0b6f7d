"""NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314), to the bit as in bitsandbytes.

Two numbers share a byte, the first in the high half. Every block of 64 has a scale; with double quantisation
the scales, less their mean, are themselves stored in 8 bits, in blocks of 256 with an fp32 scale each:
4 + 8/64 + 32/(64·256) = 4.127 bits a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from course_lib.quant import gpu
from course_lib.quant.blockwise import CHUNK, quantize_blockwise, quantize_scales
from course_lib.quant.codes import dynamic_code, nf4_code, placed
from course_lib.quant.pages import new_tensor

SECOND_BLOCK = 256  # scales that share one second scale
_ZERO = 7  # the index that stands for 0


@dataclass(frozen=True)
class NF4Tensor:
    """A quantised tensor: bytes, scales, and what it was."""

    packed: Tensor  # (⌈n / 2⌉,) uint8
    scales: Tensor  # (blocks,) fp32; uint8 with double quantisation
    second: Tensor | None  # (⌈blocks / 256⌉,) fp32, scales of the scales
    offset: Tensor | None  # () fp32, the mean scale
    shape: torch.Size
    dtype: torch.dtype  # of the original
    block_size: int

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept."""
        kept = (self.packed, self.scales, self.second, self.offset)
        return sum(part.numel() * part.element_size() for part in kept if part is not None)

    @property
    def bits_per_parameter(self) -> float:
        """8 · bytes over numbers."""
        return 8 * self.nbytes / max(1, self.shape.numel())

    def absmax(self, blocks: Tensor | None = None) -> Tensor:
        """Scales of the blocks with these numbers (None: of all), fp32, in their shape."""
        if blocks is None:
            blocks = torch.arange(len(self.scales), device=self.scales.device)
        scales = self.scales.take(blocks)
        if self.second is None or self.offset is None:
            return scales
        values = placed(dynamic_code(), scales.device).take(scales.long())
        return values.mul_(self.second.take(blocks // SECOND_BLOCK)).add_(self.offset)


def quantize_nf4(w: Tensor, block_size: int = 64, double_quant: bool = True) -> NF4Tensor:
    """Quantise a float tensor of any shape, in the order in which it is read.

    Raises ValueError for a NaN or an infinity, saying where; for a block size that is no power of two from 32
    to 4096; TypeError for another type than fp32, bf16, fp16 (or fp64, which is rounded to fp32 first).
    """
    check_weights(w, block_size)
    packed, scales = _in_four_bits(w.detach().contiguous().view(-1), block_size)
    check_finite(w, scales)
    second = offset = None
    if double_quant and len(scales):
        offset = scales.mean()
        scales, second = quantize_scales(scales - offset, dynamic_code(), SECOND_BLOCK)
    return NF4Tensor(packed, scales, second, offset, w.shape, w.dtype, block_size)


def _in_four_bits(values: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Bytes, and fp32 scales."""
    if len(values) and gpu.has_kernels(values):
        return gpu.quantize(values, block_size)
    indices, scales = quantize_blockwise(values, nf4_code(), block_size)
    return _packed(indices), scales


def dequantize(q: NF4Tensor, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    """The numbers again, in ``dtype`` (None: the original's): code times scale in fp32, rounded once.

    ``out``: a contiguous tensor of the right shape to write to, which is faster than new memory.
    """
    if q.shape.numel() and gpu.has_kernels(q.packed):
        numbers = gpu.dequantize(q, dtype or (q.dtype if out is None else out.dtype))
        return numbers if out is None else out.copy_(numbers)
    if out is None:
        out = new_tensor(q.shape, dtype or q.dtype, q.packed.device)
    elif out.shape != q.shape or not out.is_contiguous() or dtype not in (None, out.dtype):
        raise ValueError(f"out must be contiguous and of shape {tuple(q.shape)}, got {tuple(out.shape)}")
    _write(q, out.view(-1))
    return out


def _write(q: NF4Tensor, out: Tensor) -> None:
    unpack = Unpacker(q, torch.float32)
    step = max(q.block_size, CHUNK // q.block_size * q.block_size)
    for begin in range(0, len(out), step):
        end = min(len(out), begin + step)
        if out.dtype == torch.float32 and end % 2 == 0:
            unpack(begin, end, out[begin:end])
        else:
            out[begin:end] = unpack(begin, end)


class Unpacker:
    """Numbers of a quantised tensor, a part at a time, in buffers that are used again for the next."""

    def __init__(self, q: NF4Tensor, dtype: torch.dtype):
        self.q, self.table = q, _pair_table(q.packed.device)
        self.dtype, self.buffers = dtype, {}  # type: ignore[var-annotated]

    def __call__(self, begin: int, end: int, out: Tensor | None = None) -> Tensor:
        """Numbers begin … end − 1 in ``dtype``; valid until the next call. ``begin`` starts a block.

        Into ``out`` if it is given: fp32, and an even number of them.
        """
        q, count = self.q, end - begin
        first, size = begin // q.block_size, q.block_size
        numbers = self._looked_up(q.packed[begin // 2 : -(-end // 2)], out)
        blocks = torch.arange(first, first + -(-count // size), device=numbers.device)
        absmax, full = q.absmax(blocks), count // size * size
        numbers[:full].view(-1, size).mul_(absmax[: full // size, None])
        if full < count:
            numbers[full:count].mul_(absmax[-1])
        return self._rounded(numbers[:count])

    def columns(self, begin: int, end: int) -> Tensor:
        """Columns begin … end − 1 of a matrix whose rows are whole blocks; both ends are those of blocks."""
        q, (d_out, d_in) = self.q, self.q.shape
        numbers = self._looked_up(q.packed.view(d_out, d_in // 2)[:, begin // 2 : end // 2], None)
        a_row = d_in // q.block_size
        rows = torch.arange(0, d_out * a_row, a_row, device=numbers.device)[:, None]
        across = torch.arange(begin // q.block_size, end // q.block_size, device=numbers.device)
        numbers.view(d_out, -1, q.block_size).mul_(q.absmax(rows + across)[..., None])
        return self._rounded(numbers).view(d_out, end - begin)

    def _looked_up(self, packed: Tensor, out: Tensor | None) -> Tensor:
        """What the bytes stand for, before their scales (2 · bytes,) fp32."""
        out = self._buffer("numbers", 2 * packed.numel(), torch.float32) if out is None else out
        index = self._buffer("indices", packed.numel(), torch.int32)
        index.view(packed.shape).copy_(packed)
        torch.index_select(self.table, 0, index, out=out.view(torch.int64))
        return out

    def _rounded(self, numbers: Tensor) -> Tensor:
        if self.dtype == torch.float32:
            return numbers
        return self._buffer("rounded", len(numbers), self.dtype).copy_(numbers)

    def _buffer(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        if name not in self.buffers or len(self.buffers[name]) < count:
            self.buffers[name] = torch.empty(count, dtype=dtype, device=self.q.packed.device)
        return self.buffers[name][:count]


def unpacking_tables(q: NF4Tensor) -> tuple[Tensor, ...]:
    """What is kept on a device, once for all, to unpack any NF4 tensor: 2 KB, and 1 KB for its scales."""
    device = q.packed.device
    if gpu.has_kernels(q.packed):
        return gpu.unpacking_tables(device)
    return _pair_table(device), *([] if q.second is None else [placed(dynamic_code(), device)])


@cache
def _pair_table(device: torch.device) -> Tensor:
    """What each byte stands for (256,): two fp32 numbers, high half first, seen as one int64.

    One look-up of 8 bytes then serves two numbers.
    """
    code, byte = nf4_code(), torch.arange(256)
    return torch.stack([code[byte >> 4], code[byte & 15]], dim=1).view(torch.int64).view(-1).to(device)


def _packed(indices: Tensor) -> Tensor:
    """Two indices a byte; seen as one 16-bit number (little-endian), a pair is second · 256 + first."""
    if len(indices) % 2:
        indices = torch.cat([indices, torch.full_like(indices[:1], _ZERO)])
    both = indices.view(torch.int16)
    return ((both << 4) | (both >> 8)).to(torch.uint8)


def check_weights(w: Tensor, block_size: int) -> None:
    """Refuse types and block sizes that are not for weights."""
    if w.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise TypeError(f"weights to quantise are fp32, bf16 or fp16, got {w.dtype}")
    if block_size not in (32, 64, 128, 256, 512, 1024, 2048, 4096):
        raise ValueError(f"block_size must be a power of two from 32 to 4096, got {block_size!r}")


def check_finite(w: Tensor, scales: Tensor) -> None:
    """Refuse ``w`` where a number of it, and so one of its scales, is not finite; say where the first is."""
    if bool(torch.isfinite(scales).all()):
        return
    bad = (~torch.isfinite(w.float())).nonzero()
    where = tuple(bad[0].tolist())
    raise ValueError(
        f"{len(bad)} of {w.numel()} numbers are not finite in fp32, the first at {where}: {w[where].item()}; "
        "a block's scale would carry that to all of its numbers"
    )
