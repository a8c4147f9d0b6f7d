"""Numbers to NF4: each block's largest magnitude, then how many middles between the code's values lie below.

Traffic a number: the number itself once, half a byte written, and 1/16 byte of scale. The scales are
quantised in their turn by PyTorch: they are 64 times fewer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, jit, tl, use_triton

TILE = 4096  # numbers a program reads
TINY = 1e-38  # stands for the magnitude of an all-zero block
ZERO = 7  # the index of zero, which fills up a last half byte


@jit
def quantize_kernel(  # type: ignore[no-untyped-def]
    values,  # (n,) any float
    bounds,  # (15,) fp32, middles between the code's values
    packed,  # (⌈n / 2⌉,) uint8
    scales,  # (blocks,) fp32
    n,
    blocks,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,  # blocks a program
    RAGGED: tl.constexpr,  # whether the last block is shorter
):
    """ROWS blocks a program: magnitude, quotient, place among the middles, two to a byte."""
    block = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = block.to(tl.int64)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    number = tl.load(values + at, mask=at < n, other=0.0).to(tl.float32)
    size = tl.abs(number)
    # a NaN is its block's magnitude, so that the caller sees it: max alone would pass over it
    peak = tl.max(tl.where(size == size, size, float("inf")), axis=1)
    tl.store(scales + block, peak, mask=block < blocks)
    # tensors of fp32, since Triton takes a literal that is no normal fp32 number for an fp64 one
    floor = tl.maximum(peak, tl.full((ROWS,), 1e-38, tl.float32))[:, None]
    scaled = number * tl.div_rn(tl.full((ROWS, 1), 1.0, tl.float32), floor)
    if RAGGED:  # the usual libraries divide there, which can round to another index
        last = tl.minimum(tl.maximum(tl.div_rn(number, tl.broadcast_to(floor, number.shape)), -1.0), 1.0)
        scaled = tl.where((block == blocks - 1)[:, None], last, scaled)
    index = tl.zeros(number.shape, tl.int32)
    for i in tl.static_range(15):
        index += (scaled > tl.load(bounds + i)).to(tl.int32)
    index = tl.where(at < n, index, 7)
    high, low = tl.split(tl.reshape(index, (ROWS, BLOCK // 2, 2)))
    to = block.to(tl.int64)[:, None] * (BLOCK // 2) + tl.arange(0, BLOCK // 2)[None, :]
    tl.store(packed + to, ((high << 4) | low).to(tl.uint8), mask=to < (n + 1) // 2)


def reference(values: Tensor, bounds: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """The same in PyTorch."""
    n, blocks = values.numel(), cdiv(values.numel(), block)
    number = torch.nn.functional.pad(values.float(), (0, blocks * block - n)).view(blocks, block)
    peak = number.abs().nan_to_num(nan=torch.inf, posinf=torch.inf).amax(dim=1)
    floor = peak.clamp(min=TINY)[:, None]
    scaled = number * (1.0 / floor)
    if n % block:
        scaled[-1] = (number[-1] / floor[-1]).clamp(-1, 1)
    index = (scaled[..., None] > bounds).sum(-1).view(-1)[:n].to(torch.uint8)
    index = torch.nn.functional.pad(index, (0, n % 2), value=ZERO)
    return (index[0::2] << 4) | index[1::2], peak


@torch.library.custom_op("course::nf4_quantize", mutates_args=())
def nf4_quantize(values: Tensor, bounds: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Bytes (⌈n / 2⌉,) uint8, first number in the high half; scales (⌈n / block⌉,) fp32 of ``values`` (n,).

    ``bounds`` (15,) fp32 are the middles between neighbouring values of the code. A block with a NaN or an
    infinity has infinity as its scale: refuse that before the bytes are used.
    """
    if not (values.numel() and use_triton(values)):
        return reference(values, bounds, block)
    n = values.numel()
    packed = torch.empty(cdiv(n, 2), dtype=torch.uint8, device=values.device)
    scales = torch.empty(cdiv(n, block), dtype=torch.float32, device=values.device)
    rows = max(1, TILE // block)
    quantize_kernel[(cdiv(len(scales), rows),)](
        values, bounds, packed, scales, n, len(scales), BLOCK=block, ROWS=rows, RAGGED=n % block != 0,
        num_warps=8,
    )  # fmt: skip
    return packed, scales


@nf4_quantize.register_fake
def _(values: Tensor, bounds: Tensor, block: int) -> tuple[Tensor, Tensor]:
    n = values.numel()
    packed = values.new_empty((n + 1) // 2, dtype=torch.uint8)
    return packed, values.new_empty((n + block - 1) // block, dtype=torch.float32)


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    made = []
    for name in ("fp32", "bf16", "fp16"):
        signature = {
            "values": f"*{name}", "bounds": "*fp32", "packed": "*u8", "scales": "*fp32", "n": "i32",
            "blocks": "i32", **dict.fromkeys(("BLOCK", "ROWS", "RAGGED"), "constexpr"),
        }  # fmt: skip
        constants = {"BLOCK": 64, "ROWS": TILE // 64, "RAGGED": True}
        made.append(Case(f"nf4_quantize {name}", quantize_kernel, signature, constants, warps=8))
    return made
