"""Bradley-Terry's loss of pairs of rewards, −log σ(r_chosen − r_rejected), and its gradients, in one pass
each.

Traffic a pair in fp32: 8 bytes read and 4 written forward, 12 read and 8 written backward; nothing between
them is kept but the rewards.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, jit, tl, use_triton

TILE = 1024  # pairs a program compares


@jit
def softplus(x):  # type: ignore[no-untyped-def]
    """log(1 + eˣ) in fp32, to full relative precision: a GPU's own log is only exact to 2⁻²² near 1."""
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)  # log(1 + e) = 2 artanh s = 2 s (1 + s²/3 + s⁴/5 + …), s ≤ 1/3
    q = s * s
    series = 1.0 / 13 + q * (1.0 / 15)
    series = 1.0 / 9 + q * (1.0 / 11 + q * series)
    series = 1.0 / 5 + q * (1.0 / 7 + q * series)
    series = 1.0 + q * (1.0 / 3 + q * series)
    return tl.maximum(x, 0.0) + 2.0 * s * series


@jit
def pairs(chosen, rejected, margins, labels, at, inside, MARGIN: tl.constexpr, LABEL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Both rewards, their gap less the margin, and the probability that the chosen one is better."""
    good = tl.load(chosen + at, mask=inside, other=0.0).to(tl.float32)
    bad = tl.load(rejected + at, mask=inside, other=0.0).to(tl.float32)
    gap = good - bad
    if MARGIN:
        gap = gap - tl.load(margins + at, mask=inside, other=0.0).to(tl.float32)
    label = tl.full(at.shape, 1.0, tl.float32)
    if LABEL:
        label = tl.load(labels + at, mask=inside, other=1.0).to(tl.float32)
    return good, bad, gap, label


@jit
def loss_kernel(  # type: ignore[no-untyped-def]
    chosen,  # (n,) any float
    rejected,
    margins,  # (n,) if MARGIN
    labels,  # (n,) if LABEL
    losses,  # (n,) fp32
    n,
    centring,
    TILE: tl.constexpr,
    MARGIN: tl.constexpr,
    LABEL: tl.constexpr,
):
    """TILE losses a program."""
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    good, bad, gap, label = pairs(chosen, rejected, margins, labels, at, at < n, MARGIN, LABEL)
    loss = label * softplus(-gap) + (1.0 - label) * softplus(gap)
    level = good + bad
    tl.store(losses + at, loss + centring * level * level, mask=at < n)


@jit
def gradient_kernel(  # type: ignore[no-untyped-def]
    chosen,
    rejected,
    margins,
    labels,
    slopes,  # (n,) fp32, of what follows in each loss
    d_chosen,  # (n,)
    d_rejected,
    n,
    centring,
    TILE: tl.constexpr,
    MARGIN: tl.constexpr,
    LABEL: tl.constexpr,
):
    """TILE pairs of slopes a program."""
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    good, bad, gap, label = pairs(chosen, rejected, margins, labels, at, at < n, MARGIN, LABEL)
    e = tl.exp(-tl.abs(gap))
    near, far = 1.0 / (1.0 + e), e / (1.0 + e)  # σ(|gap|) and σ(−|gap|), neither by subtraction
    above = tl.where(gap >= 0, near, far)
    below = tl.where(gap >= 0, far, near)
    slope = tl.load(slopes + at, mask=at < n, other=0.0)
    push = ((1.0 - label) * above - label * below) * slope
    pull = 2.0 * centring * (good + bad) * slope
    tl.store(d_chosen + at, (pull + push).to(d_chosen.dtype.element_ty), mask=at < n)
    tl.store(d_rejected + at, (pull - push).to(d_rejected.dtype.element_ty), mask=at < n)


def reference(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None, label: Tensor | None, centring: float
) -> Tensor:
    """The same in PyTorch, in at least fp32."""
    wide = torch.promote_types(chosen.dtype, torch.float32)
    good, bad = chosen.to(wide), rejected.to(wide)
    gap = good - bad if margin is None else good - bad - margin.to(wide)
    loss = -F.logsigmoid(gap)
    if label is not None:
        loss = label.to(wide) * loss - (1 - label.to(wide)) * F.logsigmoid(-gap)
    return loss + centring * (good + bad) ** 2


def reference_gradient(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | None,
    label: Tensor | None,
    centring: float,
    slope: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients in both rewards, ``slope`` (n,) being that of each loss."""
    wide = torch.promote_types(chosen.dtype, torch.float32)
    good, bad = chosen.to(wide), rejected.to(wide)
    gap = good - bad if margin is None else good - bad - margin.to(wide)
    push = -torch.sigmoid(-gap)
    if label is not None:
        push = label.to(wide) * push + (1 - label.to(wide)) * torch.sigmoid(gap)
    pull = 2 * centring * (good + bad)
    return ((pull + push) * slope).to(chosen.dtype), ((pull - push) * slope).to(rejected.dtype)


def _served(chosen: Tensor) -> bool:
    return use_triton(chosen) and chosen.dtype != torch.float64


@torch.library.custom_op("course::pairwise_loss", mutates_args=())
def pairwise_loss(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | None = None,
    label: Tensor | None = None,
    centring: float = 0.0,
) -> Tensor:
    """−log σ(chosen − rejected − margin) of each pair (n,), in nats and fp32 (fp64 for fp64).

    ``label`` (n,) is the probability that "chosen" is the better one (None: 1); ``centring`` adds that
    multiple of (chosen + rejected)². Gradients go to the rewards, not to ``margin`` and ``label``. Source:
    Ouyang et al. 2022 (arXiv 2203.02155), equation 1.
    """
    if not _served(chosen):
        return reference(chosen, rejected, margin, label, centring)
    n, made = len(chosen), torch.empty(len(chosen), dtype=torch.float32, device=chosen.device)
    if n:
        loss_kernel[(cdiv(n, TILE),)](
            chosen, rejected, chosen if margin is None else margin, chosen if label is None else label, made,
            n, centring, TILE=TILE, MARGIN=margin is not None, LABEL=label is not None,
        )  # fmt: skip
    return made


@pairwise_loss.register_fake
def _(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, label: Tensor | None = None,
    centring: float = 0.0,
) -> Tensor:  # fmt: skip
    return torch.empty_like(chosen, dtype=torch.promote_types(chosen.dtype, torch.float32))


@torch.library.custom_op("course::pairwise_loss_backward", mutates_args=())
def _gradients(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | None,
    label: Tensor | None,
    centring: float,
    slope: Tensor,
) -> tuple[Tensor, Tensor]:
    if not _served(chosen):
        return reference_gradient(chosen, rejected, margin, label, centring, slope)
    made, n = (torch.empty_like(chosen), torch.empty_like(rejected)), len(chosen)
    if n:
        gradient_kernel[(cdiv(n, TILE),)](
            chosen, rejected, chosen if margin is None else margin, chosen if label is None else label,
            slope.contiguous(), *made, n, centring, TILE=TILE, MARGIN=margin is not None,
            LABEL=label is not None,
        )  # fmt: skip
    return made


@_gradients.register_fake
def _(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | None,
    label: Tensor | None,
    centring: float,
    slope: Tensor,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(chosen), torch.empty_like(rejected)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.centring = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    chosen, rejected, margin, label = ctx.saved_tensors
    d_chosen, d_rejected = _gradients(chosen, rejected, margin, label, ctx.centring, slope)
    return d_chosen, d_rejected, None, None, None


pairwise_loss.register_autograd(_backward, setup_context=_keep)


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    made = []
    for name in ("fp32", "bf16", "fp16"):
        given = dict.fromkeys(("chosen", "rejected", "margins", "labels"), f"*{name}")
        tail = {"n": "i32", "centring": "fp32", **dict.fromkeys(("TILE", "MARGIN", "LABEL"), "constexpr")}
        out = {"slopes": "*fp32", "d_chosen": f"*{name}", "d_rejected": f"*{name}"}
        constants = {"TILE": TILE, "MARGIN": True, "LABEL": True}
        made += [
            Case(f"pairwise_loss {name}", loss_kernel, {**given, "losses": "*fp32", **tail}, constants),
            Case(f"pairwise_loss {name}, backward", gradient_kernel, {**given, **out, **tail}, constants),
        ]
    return made
