"""The last layer and its loss together, a few tokens at a time: the logits are never all there.

For every chunk of tokens: logits = h Wᵀ (the vendor's GEMM), then one kernel reads each row twice and writes
the gradient softmax(logits) − onehot over the logits, then two GEMMs take that to h and W. The forward pass
thus makes the gradients too, so that nothing but they is kept: tokens · d + vocabulary · d numbers, where
logits with their gradient take 2 · tokens · vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from course_lib.kernels.compiled import Case
from course_lib.kernels.language import cdiv, jit, power_of_two, tl, use_triton

TILE = 4096  # logits a program holds at a time
IGNORED = -100


@jit
def loss_kernel(  # type: ignore[no-untyped-def]
    logits,  # (tokens, vocabulary), the gradient afterwards
    targets,  # (tokens,) int64
    losses,  # (tokens,) fp32
    stride,
    vocabulary,
    ignored,
    TILE: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """One token a program: log-sum-exp in one pass, then the gradient over the logits."""
    token = tl.program_id(0).to(tl.int64)
    row = logits + token * stride
    target = tl.load(targets + token)
    if target == ignored:
        tl.store(losses + token, 0.0)
        if GRADIENT:
            for begin in range(0, vocabulary, TILE):
                at = begin + tl.arange(0, TILE)
                tl.store(row + at, tl.zeros((TILE,), logits.dtype.element_ty), mask=at < vocabulary)
    else:
        peak = tl.full((TILE,), float("-inf"), tl.float32)
        total = tl.zeros((TILE,), tl.float32)
        for begin in range(0, vocabulary, TILE):
            at = begin + tl.arange(0, TILE)
            z = tl.load(row + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
            new = tl.maximum(peak, z)
            safe = tl.where(new == float("-inf"), 0.0, new)  # a lane that has seen nothing yet
            total = total * tl.exp(peak - safe) + tl.exp(z - safe)
            peak = new
        top = tl.max(peak, axis=0)
        log_total = tl.log(tl.sum(total * tl.exp(peak - top), axis=0))
        right = tl.load(row + target).to(tl.float32)
        tl.store(losses + token, (top - right) + log_total)  # large logits cancel before the small is added
        if GRADIENT:
            for begin in range(0, vocabulary, TILE):
                at = begin + tl.arange(0, TILE)
                z = tl.load(row + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
                gradient = tl.exp((z - top) - log_total) - tl.where(at == target, 1.0, 0.0)
                tl.store(row + at, gradient.to(logits.dtype.element_ty), mask=at < vocabulary)


def reference(logits: Tensor, targets: Tensor, gradient: bool) -> Tensor:
    """Losses (tokens,) fp32 of ``logits`` (tokens, vocabulary), which a wanted gradient replaces."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    log_sum, kept = wide.logsumexp(dim=1), targets != IGNORED
    place = targets.where(kept, 0)[:, None]
    losses = (log_sum - wide.gather(1, place).squeeze(1)) * kept
    if gradient:
        slope = (wide - log_sum[:, None]).exp_()
        slope.scatter_add_(1, place, -torch.ones_like(slope[:, :1]))
        logits.copy_(slope * kept[:, None])
    return losses


def losses_in_place(logits: Tensor, targets: Tensor, gradient: bool) -> Tensor:
    """As ``reference``, by the kernel where there is a GPU."""
    if not use_triton(logits):
        return reference(logits, targets, gradient)
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    tile = min(TILE, power_of_two(logits.shape[1]))
    loss_kernel[(len(logits),)](
        logits, targets, losses, logits.stride(0), logits.shape[1], IGNORED, TILE=tile, GRADIENT=gradient,
        num_warps=8,
    )  # fmt: skip
    return losses


@torch.library.custom_op("course::linear_cross_entropy", mutates_args=())
def _loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, for_hidden: bool, for_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss () fp32 and its gradients in ``hidden`` and ``weight`` (empty where not wanted)."""
    if not targets.is_cuda and targets.numel():
        given = targets[targets != IGNORED]
        if given.numel() and (int(given.min()) < 0 or int(given.max()) >= len(weight)):
            raise ValueError(f"targets must lie in 0 … {len(weight) - 1}, or be {IGNORED} to be left out")
    tokens = len(hidden)
    count = (targets != IGNORED).sum().clamp(min=1)
    total = hidden.new_zeros((), dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32)
    d_hidden = torch.empty_like(hidden) if for_hidden else hidden.new_empty(0)
    # the sum over chunks is made in fp32: in bf16 small chunks would be rounded away
    d_weight = (
        torch.zeros_like(weight, dtype=total.dtype) if for_weight else weight.new_empty(0, dtype=total.dtype)
    )
    for begin in range(0, tokens, chunk):
        part = hidden[begin : begin + chunk]
        logits = part @ weight.T
        total += losses_in_place(logits, targets[begin : begin + chunk], for_hidden or for_weight).sum()
        if for_hidden:
            torch.mm(logits, weight, out=d_hidden[begin : begin + chunk])
        if for_weight and weight.dtype == d_weight.dtype:
            d_weight.addmm_(logits.T, part)
        elif for_weight:
            d_weight += logits.T @ part
    if for_hidden:
        d_hidden /= count
    if for_weight:
        d_weight /= count
    return total / count, d_hidden, d_weight.to(weight.dtype)


@_loss_and_gradients.register_fake
def _(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, for_hidden: bool, for_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    d_hidden = torch.empty_like(hidden) if for_hidden else hidden.new_empty(0)
    d_weight = torch.empty_like(weight) if for_weight else weight.new_empty(0)
    return hidden.new_empty((), dtype=kind), d_hidden, d_weight


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], output[2])
    ctx.wanted = inputs[4], inputs[5]
    ctx.mark_non_differentiable(output[1], output[2])


def _backward(ctx: Any, slope: Tensor, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    d_hidden, d_weight = ctx.saved_tensors
    for_hidden, for_weight = ctx.wanted
    return (
        d_hidden * slope.to(d_hidden.dtype) if for_hidden else None,
        d_weight * slope.to(d_weight.dtype) if for_weight else None,
        None, None, None, None,
    )  # fmt: skip


_loss_and_gradients.register_autograd(_backward, setup_context=_keep)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int | None = None) -> Tensor:
    """Mean cross-entropy () of the logits ``hidden`` · ``weight``ᵀ, without the logits.

    ``hidden`` (…, d), ``weight`` (vocabulary, d), ``targets`` (…) int64, of which −100 is left out. ``chunk``
    tokens at a time (None: as many as need about the memory of ``hidden``). Raises ValueError for shapes that
    do not fit and for targets outside the vocabulary (on a CPU; a GPU is not waited for).
    """
    rows, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    if weight.ndim != 2 or weight.shape[1] != rows.shape[1] or len(wanted) != len(rows):
        raise ValueError(
            f"hidden (…, d), weight (vocabulary, d) and targets (…) must fit, got {tuple(hidden.shape)}, "
            f"{tuple(weight.shape)} and {tuple(targets.shape)}"
        )
    if chunk is None:
        chunk = max(16, power_of_two(cdiv(len(rows) * rows.shape[1], max(1, len(weight)))))
    grad = torch.is_grad_enabled()
    loss, _, _ = _loss_and_gradients(
        rows, weight, wanted, chunk, grad and hidden.requires_grad, grad and weight.requires_grad
    )
    return loss


def cases() -> list[Case]:
    """What is compiled ahead of time."""
    return [
        Case(
            f"linear_cross_entropy {name}",
            loss_kernel,
            {
                "logits": f"*{name}", "targets": "*i64", "losses": "*fp32", "stride": "i32",
                "vocabulary": "i32", "ignored": "i32", "TILE": "constexpr", "GRADIENT": "constexpr",
            },
            {"TILE": TILE, "GRADIENT": True},
            warps=8,
        )
        for name in ("fp32", "bf16", "fp16")
    ]  # fmt: skip
