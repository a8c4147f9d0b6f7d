"""What counts as a linear map, and how to read and replace its weight as a dense (d_out, d_in) matrix.

A map is an ``nn.Linear``, a GPT-2 ``Conv1D`` (which stores the transpose), or any module that has
``in_features``, ``out_features`` and a method ``dense_weight()``, as a quantised linear layer does.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def is_linear(module: nn.Module) -> bool:
    """Whether an adapter can sit on ``module``."""
    return isinstance(module, nn.Linear) or _is_conv1d(module) or _is_quantised(module)


def sizes(module: nn.Module) -> tuple[int, int]:
    """(d_out, d_in)."""
    if _is_conv1d(module):
        d_in, d_out = module.weight.shape  # type: ignore[misc, union-attr]
        return int(d_out), int(d_in)
    return module.out_features, module.in_features  # type: ignore[return-value]


def dense_weight(module: nn.Module) -> Tensor:
    """W (d_out, d_in), detached; a view of the stored weight, or made from it where it is quantised."""
    if _is_quantised(module):
        return module.dense_weight().detach()  # type: ignore[operator]
    weight: Tensor = module.weight.detach()  # type: ignore[assignment, operator]
    return weight.T if _is_conv1d(module) else weight


def replace_weight(module: nn.Module, dense: Tensor) -> Tensor:
    """Put ``dense`` in the place of the weight and return what was stored there, for ``restore_weight``."""
    stored: Tensor = module.weight.data  # type: ignore[assignment, union-attr]
    module.weight.data = dense.T.contiguous() if _is_conv1d(module) else dense  # type: ignore[union-attr]
    return stored


def restore_weight(module: nn.Module, stored: Tensor) -> None:
    """Put back, bit for bit, what ``replace_weight`` returned."""
    module.weight.data = stored  # type: ignore[union-attr]


def refusal(module: nn.Module) -> str | None:
    """Why the weight of ``module`` cannot be replaced, or None where it can."""
    if _is_quantised(module):
        return (
            "has a quantised weight, which W + ΔW would be rounded into; leave the adapter unmerged, or say "
            "which rounding you want: merge_quantized(model, requantize=…)"
        )
    return None


def is_plain(module: nn.Module) -> bool:
    """Whether the map is x Wᵀ + b with a stored, frozen W, so that the adapter may compute it itself."""
    return type(module).forward is nn.Linear.forward and not module.weight.requires_grad  # type: ignore[union-attr]


def fingerprint(weight: Tensor) -> str:
    """A hash of shape, type and every bit of a weight."""
    kept = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(kept.shape)} {kept.dtype}".encode())
    digest.update(kept.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]
    return digest.hexdigest()[:32]


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _is_quantised(module: nn.Module) -> bool:
    needed = ("in_features", "out_features", "dense_weight")
    return all(hasattr(module, name) for name in needed)
