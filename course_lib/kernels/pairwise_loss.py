"""Bradley-Terry's loss of pairs of rewards, −p log σ(z) − (1 − p) log σ(−z) with z = chosen − rejected −
margin.

One pass gives the losses and their slopes σ(z) − p, which is all that backward needs: 16 bytes a pair are
read and 8 written, where the formula's own operations move 60 and more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, jit, tl, use_triton

TILE = 1024  # pairs a program


@jit
def pairwise_kernel(  # type: ignore[no-untyped-def]
    chosen,
    rejected,
    margin,
    label,
    losses,  # (n,) fp32
    slopes,  # (n,) fp32, dloss/dchosen
    n,
    TILE: tl.constexpr,
):
    """TILE pairs a program; exp of what is negative alone, so that nothing overflows."""
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = at < n
    z = tl.load(chosen + at, mask=inside, other=0.0).to(tl.float32)
    z = z - tl.load(rejected + at, mask=inside, other=0.0).to(tl.float32) - tl.load(margin + at, mask=inside)
    p = tl.load(label + at, mask=inside, other=1.0)
    small = tl.exp(-tl.abs(z))
    # log(1 + small) loses small's last digits where it is near 0: small − small²/2 + small³/3 keeps them
    tail = tl.where(small < 1e-3, small * (1.0 - small * (0.5 - small / 3.0)), tl.log(1.0 + small))
    tl.store(losses + at, tail + tl.maximum(-z, 0.0) + (1.0 - p) * z, mask=inside)
    # σ(z) − p as (1 − p) − σ(−z): where p is 1 and z large, the small number itself
    below = tl.where(z >= 0, small, 1.0) / (1.0 + small)
    tl.store(slopes + at, (1.0 - p) - below, mask=inside)


def reference(chosen: Tensor, rejected: Tensor, margin: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The same in PyTorch."""
    kind = torch.promote_types(chosen.dtype, torch.float32)
    z = chosen.to(kind) - rejected.to(kind) - margin
    losses = torch.nn.functional.softplus(-z) + (1 - label) * z
    return losses, (1 - label) - torch.sigmoid(-z)


@torch.library.custom_op("course::pairwise_loss", mutates_args=())
def _losses_and_slopes(
    chosen: Tensor, rejected: Tensor, margin: Tensor, label: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses (n,) and their slopes in ``chosen`` (n,), fp32."""
    if not use_triton(chosen) or chosen.dtype == torch.float64:
        return reference(chosen, rejected, margin, label)
    n = len(chosen)
    losses = torch.empty(n, dtype=torch.float32, device=chosen.device)
    slopes = torch.empty(n, dtype=torch.float32, device=chosen.device)
    pairwise_kernel[(cdiv(n, TILE),)](chosen, rejected, margin, label, losses, slopes, n, TILE=TILE)
    return losses, slopes


@_losses_and_slopes.register_fake
def _(chosen: Tensor, rejected: Tensor, margin: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    kind = torch.promote_types(chosen.dtype, torch.float32)
    return torch.empty_like(chosen, dtype=kind), torch.empty_like(chosen, dtype=kind)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.kinds = inputs[0].dtype, inputs[1].dtype
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, g: Tensor, unused: Tensor | None) -> tuple[Tensor | None, ...]:
    (slopes,) = ctx.saved_tensors
    first, second = ctx.kinds
    slope = g * slopes
    return slope.to(first), (-slope).to(second), None, None


_losses_and_slopes.register_autograd(_backward, setup_context=_keep)


def pairwise_losses(chosen: Tensor, rejected: Tensor, margin: Tensor, label: Tensor) -> Tensor:
    """Each pair's loss (n,) fp32; all four (n,), ``margin`` and ``label`` fp32. Gradients go to the rewards."""
    return _losses_and_slopes(chosen, rejected, margin, label)[0]


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    return [
        Case(
            f"pairwise_loss {name}",
            pairwise_kernel,
            {
                "chosen": f"*{name}", "rejected": f"*{name}", "margin": "*fp32", "label": "*fp32",
                "losses": "*fp32", "slopes": "*fp32", "n": "i32", "TILE": "constexpr",
            },
            {"TILE": TILE},
        )
        for name in ("fp32", "bf16", "fp16")
    ]  # fmt: skip
