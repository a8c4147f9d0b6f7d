"""The reward model's loss: Bradley-Terry's negative log-likelihood, −log σ(r_chosen − r_rejected)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    margin: Tensor | float = 0.0,
    label: Tensor | float = 1.0,
    centring: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """−log σ(chosen − rejected − margin) for rewards of one shape, in nats; finite at any finite gap.

    ``margin`` ≥ 0 asks for a gap of that size (Llama 2, section 3.2.2). ``label`` is the probability that
    "chosen" is the better one: 1, or the share of raters who said so. ``centring`` adds that multiple of
    (chosen + rejected)², which pins the level that comparisons leave free (Eisenstein et al. 2023). Rewards
    in 16 bits are compared in 32. Raises ValueError where shapes would broadcast or a label is no
    probability.
    """
    if chosen.shape != rejected.shape:
        raise ValueError(
            f"chosen and rejected must have one shape, got {tuple(chosen.shape)} and "
            f"{tuple(rejected.shape)}; unequal shapes would compare every chosen with every rejected"
        )
    dtype = torch.promote_types(chosen.dtype, torch.float32)
    good, bad = chosen.to(dtype), rejected.to(dtype)
    margin, label = _fitted("margin", margin, good), _fitted("label", label, good)
    if bool(((label < 0) | (label > 1)).any()):
        raise ValueError("label must lie between 0 and 1: it is the probability that chosen is better")
    if bool((margin < 0).any()) or (bool((margin != 0).any()) and bool((label != 1).any())):
        raise ValueError("margin must be ≥ 0, and goes with certain labels (1) alone")
    gap = good - bad - margin
    if good.is_cuda and not margin.requires_grad and not label.requires_grad:
        loss = _by_kernel(good, bad, margin, label, centring)
    else:
        loss = -label * F.logsigmoid(gap) - (1 - label) * F.logsigmoid(-gap)
        if centring:
            loss = loss + centring * (good + bad) ** 2
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def _by_kernel(good: Tensor, bad: Tensor, margin: Tensor, label: Tensor, centring: float) -> Tensor:
    """The same losses in one pass over the pairs, and one more for the gradients."""
    from course_lib.kernels import pairwise_loss as losses_of

    flat = (part.expand_as(good).reshape(-1).contiguous() for part in (good, bad, margin, label))
    return losses_of(*flat, centring).view_as(good)  # type: ignore[no-any-return]


def _fitted(what: str, value: Tensor | float, like: Tensor) -> Tensor:
    """A number, or a tensor of the rewards' shape."""
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if tensor.ndim and tensor.shape != like.shape:
        raise ValueError(
            f"{what} must be a number or of shape {tuple(like.shape)}, got {tuple(tensor.shape)}"
        )
    return tensor
