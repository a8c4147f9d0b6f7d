"""Adapters and a base in 4 bits: a quantised rest beside an exact principal part; merging, which rounds.

QLoRA (Dettmers et al. 2023) needs nothing of this: ``attach`` works on a model of ``NF4Linear`` maps. Here is
what is special: QPiSSA (Meng et al. 2024, section 3.4 and Algorithm 1) quantises W less its r largest
singular triplets, which the adapter keeps in full precision; and ``merge_quantized`` writes adapters into the
base for good, saying what the rounding does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_lib.adapters.attach import Handle, check_attachable, install, is_merged, slots, targets
from course_lib.adapters.base import Adapter, wide
from course_lib.adapters.linear import dense_weight
from course_lib.adapters.lora import LoRA, LoRAAdapter
from course_lib.adapters.pissa import MiLoRA, PiSSA, SubspaceAdapter
from course_lib.quant import NF4Linear, quantize_nf4
from course_lib.quant.linear import put_modules


@torch.no_grad()
def quantize_rest(
    model: nn.Module, spec: PiSSA | MiLoRA, name: str = "default", rounds: int = 1, double_quant: bool = True
) -> Handle:
    """Split every target W into A Bᵀ + rest, quantise the rest in place, attach A Bᵀ as a trained LoRA.

    The model's output is then that of Q(rest) + A Bᵀ, which for PiSSA is nearer to W's than Q(W) is: without
    its largest triplets a weight has a narrower spread. ``rounds`` above 1 goes on as LoftQ does (Li et al.
    2023, arXiv 2310.08659): the triplets of W − Q(rest) are taken next, and so on. The adapter is an ordinary
    ``LoRA`` of scale 1, which ``save_adapter`` writes and peft reads; it belongs to this rest alone, so keep
    the quantised model (``state_dict``) with it. Raises ValueError, with the model untouched, for targets
    that are not plain ``nn.Linear`` and for weights that are not finite.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds!r}")
    chosen = targets(model, spec)
    check_attachable(model, name, chosen)
    for path, linear in chosen.items():
        if not isinstance(linear, nn.Linear) or "adapters" in linear._modules:
            raise ValueError(
                f"{path} must be a plain nn.Linear without adapters, got {type(linear).__name__}; "
                "split the model before quantising it or attaching to it"
            )
    made: dict[str, Adapter] = {}
    quantised: dict[nn.Module, nn.Module] = {}
    for path, linear in chosen.items():
        assert isinstance(linear, nn.Linear)
        try:
            quantised[linear], made[path] = _split(path, linear, spec, rounds, double_quant)
        except ValueError as why:
            raise ValueError(f"{path}: {why}") from None
    put_modules(model, quantised)
    lora = LoRA(spec.rank, targets=spec.targets, dtype=spec.dtype)
    return install(model, lora, name, made)


def _split(
    path: str, linear: nn.Linear, spec: PiSSA | MiLoRA, rounds: int, double_quant: bool
) -> tuple[NF4Linear, LoRAAdapter]:
    weight, rest = wide(linear.weight.detach()), linear.weight.detach().new_zeros(())
    for _ in range(rounds):
        holder = nn.Linear(1, 1, bias=False, device="meta")
        holder.weight = nn.Parameter(weight - rest, requires_grad=False)
        start = spec.make(path, holder)
        assert isinstance(start, SubspaceAdapter)
        A, B = start.A0.to(spec.dtype or linear.weight.dtype), start.B0.to(spec.dtype or linear.weight.dtype)
        packed = quantize_nf4((weight - wide(A) @ wide(B).T).to(linear.weight.dtype), 64, double_quant)
        rest = wide(NF4Linear(packed).dense_weight())
    quantised = NF4Linear(packed, linear.bias)
    adapter = LoRAAdapter(quantised, spec.rank, 1.0, 0.0, A.dtype)
    adapter.A.data, adapter.B.data = A.contiguous(), B.contiguous()
    return quantised, adapter


@dataclass(frozen=True)
class MergeReport:
    """‖W' − (W + ΔW)‖ / ‖W + ΔW‖ of every map, W' being what was written, and ‖ΔW‖ / ‖W + ΔW‖ beside it."""

    error: dict[str, float]
    change: dict[str, float]

    def __str__(self) -> str:
        worst = max(self.error, key=lambda path: self.error[path])
        return (
            f"{len(self.error)} maps; at most {self.error[worst]:.2%} of ‖W‖ lost ({worst}, "
            f"where the adapter itself is {self.change[worst]:.2%})"
        )


@torch.no_grad()
def merge_quantized(model: nn.Module, requantize: bool) -> MergeReport:
    """Write the active adapters into a quantised base for good, and take all adapters off.

    ``requantize=False`` turns every adapted ``NF4Linear`` into an ``nn.Linear`` with W + ΔW in W's own type:
    four times the memory, rounded once. ``True`` quantises the sum anew, which moves every number of a block
    by up to half a step, often more than ΔW itself did: read the report. There is no way back. Raises
    ValueError before anything is changed where an adapted map is not quantised or a sum is not finite.
    """
    if is_merged(model):
        raise RuntimeError("other adapters are merged; call unmerge(model) first")
    found = [(path, linear, slot) for path, linear, slot in slots(model) if slot.active]
    if not found:
        raise ValueError("no adapter is on, so there is nothing to merge")
    made: dict[nn.Module, nn.Module] = {}
    error, change = {}, {}
    for path, linear, slot in found:
        if not isinstance(linear, NF4Linear):
            raise ValueError(f"{path} is a {type(linear).__name__}, not quantised; use merge(model)")
        weight = wide(dense_weight(linear))
        total = weight
        for key in slot.active:
            adapter = slot[key]
            assert isinstance(adapter, Adapter)
            total = adapter.added_to(total)
        try:
            made[linear] = _written(linear, total, requantize)
        except ValueError as why:
            raise ValueError(f"{path}: {why}") from None
        error[path] = _relative(wide(dense_weight(made[linear])) - total, total)
        change[path] = _relative(total - weight, total)
    for name in dict.fromkeys(key for _, _, slot in slots(model) for key in slot):
        Handle(model, name).detach()
    put_modules(model, made)
    return MergeReport(error, change)


def _written(linear: NF4Linear, total: Tensor, requantize: bool) -> nn.Module:
    """A layer of W + ΔW."""
    if not bool(torch.isfinite(total).all()):
        raise ValueError("the adapter makes a NaN or an infinity; nothing was merged")
    bias = linear.bias
    if requantize:
        packed = quantize_nf4(total.to(linear.dtype), linear.block_size, linear.second is not None)
        return NF4Linear(packed, bias)
    dense = nn.Linear(linear.in_features, linear.out_features, bias is not None, device="meta")
    dense.weight = nn.Parameter(total.to(linear.dtype), requires_grad=False)
    if bias is not None:
        dense.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return dense


def _relative(difference: Tensor, whole: Tensor) -> float:
    return float(difference.norm() / whole.norm().clamp_min(1e-30))
