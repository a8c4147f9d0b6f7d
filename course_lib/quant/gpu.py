"""The same on a CUDA device with Triton: by the kernels of ``course_lib.kernels``, which load when needed."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from course_lib.quant.codes import boundaries, dynamic_code, nf4_code, placed, unsigned_dynamic_code

if TYPE_CHECKING:
    from course_lib.quant.nf4 import NF4Tensor

_KERNEL_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def has_kernels(tensor: Tensor) -> bool:
    """Whether kernels run on the tensor's device, and on its type."""
    if not tensor.is_cuda or tensor.dtype not in (*_KERNEL_TYPES, torch.uint8):
        return False
    from course_lib.kernels.language import use_triton

    return use_triton(tensor)


def quantize(values: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Bytes and scales of ``values`` (n,)."""
    from course_lib.kernels import nf4_quantize

    bounds: Tensor = _bounds(nf4_code(), values.device)
    return nf4_quantize(values, bounds, block_size)  # type: ignore[no-any-return]


def dequantize(q: NF4Tensor, dtype: torch.dtype) -> Tensor:
    """All numbers again, in their shape."""
    from course_lib.kernels import nf4_dequantize

    numbers: Tensor = nf4_dequantize(*_parts(q), q.shape.numel(), q.block_size, dtype)
    return numbers.view(q.shape)


def product(
    x: Tensor, q: NF4Tensor, A: Tensor | None = None, B: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """x Wᵀ + scale · (x B) Aᵀ; fused for a few rows, by the vendor's GEMM for more."""
    from course_lib.kernels import nf4_linear

    d_out, d_in = q.shape
    rows = x.reshape(-1, d_in).contiguous()
    y: Tensor = nf4_linear(rows, *_parts(q), d_out, q.block_size, A, B, scale)
    return y.view(*x.shape[:-1], d_out)


def adamw_step(weights: Tensor, gradient: Tensor, states: dict[str, Tensor], step: int, group: Any) -> None:
    """One step on a page whose averages are in 8 bits, unpacked in registers alone; all in place."""
    from course_lib.kernels import adamw8bit

    maps = optimizer_tables(weights.device)
    settings = (float(group["lr"]), *group["betas"], group["eps"], group["weight_decay"], step)
    kept = [states[name] for name in ("exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale")]
    adamw8bit(weights, gradient.contiguous(), *kept, *maps, *settings)


def unpacking_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The values of NF4 and of its 8-bit scales: 1,088 bytes."""
    return placed(nf4_code(), device), placed(dynamic_code(), device)


def optimizer_tables(device: torch.device) -> tuple[Tensor, ...]:
    """Values and boundaries of the two 8-bit maps: 4,088 bytes."""
    codes = dynamic_code(), unsigned_dynamic_code()
    return tuple(table for code in codes for table in (placed(code, device), _bounds(code, device)))


@lru_cache(maxsize=16)
def _bounds(code: Tensor, device: torch.device) -> Tensor:
    return boundaries(code).to(device)


def _parts(q: NF4Tensor) -> tuple[Tensor | None, ...]:
    return q.packed, q.scales, q.second, q.offset, *unpacking_tables(q.packed.device)
