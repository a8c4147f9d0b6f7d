"""y = W x + b + s · A Bᵀ x and its gradients, in one autograd function.

Against the plain formula ``base + s * (x @ B) @ A.T`` it saves the same two things for the backward pass (x,
and the low-rank product), but makes one pass over the output where that makes three, and keeps every thin
matrix lying down, (r, tokens) instead of (tokens, r), which a CPU multiplies three times as fast.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.adapters.linear import is_plain
from course_lib.quant import NF4Linear, gpu


def plain_low_rank(x: Tensor, base: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """The formula as it stands; what ``add_low_rank`` is tested against."""
    return base + scale * ((x @ B) @ A.T)


def add_low_rank(x: Tensor, base: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """base + scale · A Bᵀ x; x (…, d_in), base (…, d_out), A (d_out, r), B (d_in, r).

    Where the adapter's type is not the base's (fp32 beside 16 bits), the sum is made in the adapter's and
    rounded once.
    """
    if torch.is_autocast_enabled(x.device.type):
        return plain_low_rank(x, base, A, B, scale).to(base.dtype)
    result: Tensor = _LowRank.apply(x.to(A.dtype), base.to(A.dtype), None, None, A, B, scale)  # type: ignore[no-untyped-call]
    return result.to(base.dtype)


def through_low_rank(linear: nn.Module, x: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor | None:
    """The adapted map in one go, base included; None where ``linear`` or the types do not allow it."""
    if torch.is_autocast_enabled(x.device.type) or x.dtype != A.dtype:
        return None
    if type(linear).forward is NF4Linear.forward and gpu.has_kernels(x):
        y = gpu.product(x, linear.quantized, A, B, scale)  # type: ignore[arg-type]
        return y if linear.bias is None else y + linear.bias.to(y.dtype)  # type: ignore[operator, union-attr]
    if not is_plain(linear):
        return None
    weight, bias = linear.weight, linear.bias
    if weight.dtype != x.dtype or (bias is not None and bias.requires_grad):  # type: ignore[union-attr]
        return None
    return _LowRank.apply(x, None, weight, bias, A, B, scale)  # type: ignore[no-untyped-call, no-any-return]


class _LowRank(torch.autograd.Function):
    """(x, base or (W, b), A, B, s) → base + s · A Bᵀ x, where base = W x + b if it is not given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, weight: Tensor | None, bias: Tensor | None,
                A: Tensor, B: Tensor, scale: float) -> Tensor:  # fmt: skip
        rows = x.reshape(-1, x.shape[-1])  # (tokens, d_in)
        low = B.T @ rows.T  # (r, tokens)
        if base is None:
            out = F.linear(rows, weight, bias).addmm_(low.T, A.T, alpha=scale)  # type: ignore[arg-type]
        else:
            out = torch.addmm(base.reshape(-1, base.shape[-1]), low.T, A.T, alpha=scale)
        ctx.save_for_backward(x, low, weight, A, B)
        ctx.scale = scale
        return out.view(*x.shape[:-1], A.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, low, weight, A, B = ctx.saved_tensors
        (grad,) = gradients
        g, rows = grad.reshape(-1, A.shape[0]), x.reshape(-1, x.shape[-1])
        up = A.T @ g.T  # (r, tokens)
        scaled = up if ctx.scale == 1 else up * ctx.scale
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = scaled.T @ B.T if weight is None else (g @ weight).addmm_(scaled.T, B.T)
            grad_x = grad_x.view(x.shape)
        grad_A = (low @ g).T if ctx.needs_input_grad[4] else None  # (d_out, r)
        if grad_A is not None and ctx.scale != 1:
            grad_A = grad_A * ctx.scale
        grad_B = (scaled @ rows).T if ctx.needs_input_grad[5] else None  # (d_in, r)
        return grad_x, grad if ctx.needs_input_grad[1] else None, None, None, grad_A, grad_B, None
