"""NF4 to numbers: the byte's two halves are looked up and multiplied by their block's scale.

Traffic a number: half a byte of indices, 1/64 byte of 8-bit scales, and what is written. Nothing else moves,
so the bound is the memory's speed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, jit, tl, use_triton

SECOND_BLOCK = 256  # scales that share a second scale
TILE = 4096  # bytes a program unpacks


@jit
def block_scale(scales, second, offset, dynamic, block, inside, DOUBLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scales of the blocks with these numbers, fp32, from 8 bits where they are quantised themselves."""
    if DOUBLE:
        value = tl.load(dynamic + tl.load(scales + block, mask=inside, other=0).to(tl.int32))
        return value * tl.load(second + block // 256, mask=inside, other=0.0) + tl.load(offset)
    else:
        return tl.load(scales + block, mask=inside, other=0.0)


@jit
def dequantize_kernel(  # type: ignore[no-untyped-def]
    packed,  # (⌈n / 2⌉,) uint8
    scales,  # (blocks,) fp32, or uint8 if DOUBLE
    second,  # (⌈blocks / 256⌉,) fp32
    offset,  # () fp32
    code,  # (16,) fp32
    dynamic,  # (256,) fp32
    out,  # (n,)
    n,
    blocks,
    HALF: tl.constexpr,  # bytes a block
    ROWS: tl.constexpr,  # blocks a program
    DOUBLE: tl.constexpr,
):
    """ROWS blocks a program: look up, scale, interleave, store."""
    block = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    scale = block_scale(scales, second, offset, dynamic, block, block < blocks, DOUBLE)[:, None]
    at = block.to(tl.int64)[:, None] * HALF + tl.arange(0, HALF)[None, :]
    byte = tl.load(packed + at, mask=at < (n + 1) // 2, other=0)
    high = tl.load(code + (byte >> 4).to(tl.int32)) * scale
    low = tl.load(code + (byte & 15).to(tl.int32)) * scale
    both = tl.interleave(high, low)
    to = block.to(tl.int64)[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    tl.store(out + to, both.to(out.dtype.element_ty), mask=to < n)


def reference(
    packed: Tensor,
    scales: Tensor,
    second: Tensor | None,
    offset: Tensor | None,
    code: Tensor,
    dynamic: Tensor,
    n: int,
    block: int,
    dtype: torch.dtype,
) -> Tensor:
    """The same in PyTorch, in the precision of ``code``."""
    if second is not None and offset is not None:
        spread = second.to(code.dtype).repeat_interleave(SECOND_BLOCK)[: len(scales)]
        scales = dynamic.to(code.dtype)[scales.long()] * spread + offset
    index = torch.stack([packed >> 4, packed & 15], dim=1).view(-1)[:n].long()
    return (code[index] * scales.to(code.dtype).repeat_interleave(block)[:n]).to(dtype)


@torch.library.custom_op("course::nf4_dequantize", mutates_args=())
def nf4_dequantize(
    packed: Tensor,
    scales: Tensor,
    second: Tensor | None,
    offset: Tensor | None,
    code: Tensor,
    dynamic: Tensor,
    n: int,
    block: int,
    dtype: torch.dtype,
) -> Tensor:
    """The ``n`` numbers (n,) of ``dtype`` that ``packed`` holds, rounded once.

    ``packed`` (⌈n / 2⌉,) uint8, the first number in the high half; ``scales`` (⌈n / block⌉,) fp32, or uint8
    with ``second`` (⌈blocks / 256⌉,) and ``offset`` () when they are quantised too; ``code`` (16,) and
    ``dynamic`` (256,) fp32 are the tables.
    """
    if not (n and use_triton(packed)):  # a launch of no programs is an error
        return reference(packed, scales, second, offset, code, dynamic, n, block, dtype)
    out = torch.empty(n, dtype=dtype, device=packed.device)
    half = block // 2
    rows = max(1, TILE // half)
    double = second is not None
    dequantize_kernel[(cdiv(len(scales), rows),)](
        packed, scales, second if double else scales, offset if double else scales, code, dynamic, out, n,
        len(scales), HALF=half, ROWS=rows, DOUBLE=double, num_warps=8,
        enable_fp_fusion=False,  # value · second + offset is rounded twice, as on a CPU
    )  # fmt: skip
    return out


@nf4_dequantize.register_fake
def _(
    packed: Tensor,
    scales: Tensor,
    second: Tensor | None,
    offset: Tensor | None,
    code: Tensor,
    dynamic: Tensor,
    n: int,
    block: int,
    dtype: torch.dtype,
) -> Tensor:
    return packed.new_empty(n, dtype=dtype)


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    made = []
    for name, out in (("fp32", "*fp32"), ("bf16", "*bf16"), ("fp16", "*fp16")):
        signature = {
            "packed": "*u8", "scales": "*u8", "second": "*fp32", "offset": "*fp32", "code": "*fp32",
            "dynamic": "*fp32", "out": out, "n": "i32", "blocks": "i32",
            **dict.fromkeys(("HALF", "ROWS", "DOUBLE"), "constexpr"),
        }  # fmt: skip
        constants = {"HALF": 32, "ROWS": TILE // 32, "DOUBLE": True}
        made.append(
            Case(f"nf4_dequantize {name}", dequantize_kernel, signature, constants, warps=8, fusion=False)
        )
    return made
