"""AdamW whose two averages are kept in 8 bits, block by block, or in host memory, page by page.

Dettmers et al. 2022 (8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861): each average is stored
as one byte a number, on the dynamic map, and an fp32 scale for every 256; a step unpacks it, updates it in
fp32 and packs it again. One thing is added here: a second average that is not zero is never rounded to zero,
since the step divides by its root.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from course_lib.quant import gpu
from course_lib.quant.blockwise import dequantize_blockwise, quantize_blockwise, tables
from course_lib.quant.codes import dynamic_code, unsigned_dynamic_code

STATE_BLOCK = 256  # numbers of an average that share a scale
PAGE = 1 << 18  # numbers of a parameter that are updated at a time: 1 MB of fp32, as a core's cache has it
CUDA_PAGE = 1 << 22  # a GPU needs more at once to be busy


class Page(NamedTuple):
    """A stretch of one parameter."""

    group: dict[str, Any]
    parameter: nn.Parameter
    values: Tensor  # (n,) a view of the parameter, or of a copy of it where it is not contiguous
    begin: int
    end: int


class BlockAdamW(torch.optim.Optimizer):
    """What ``AdamW8bit`` and ``PagedAdamW`` share: the step, page by page, and the way into a state dict."""

    bits: int

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float):
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value!r}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be at least 0 and below 1, got {betas!r}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; returns what ``closure`` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pages = list(self._pages())
        ahead = self._fetch(pages[0]) if pages else {}
        for page, following in zip(pages, [*pages[1:], None], strict=True):
            states = ahead  # the page before lets go of its memory here, so that there are never three
            ahead = self._fetch(following) if following is not None else {}
            self._ready(states)
            self._update(page, states)
            self._store(page, states)
        self._finish(pages)
        return loss

    def _pages(self) -> Iterator[Page]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    raise RuntimeError("sparse gradients are for torch.optim.SparseAdam")
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state.update(self._start(parameter))
                state["step"] += 1
                values = parameter.data.contiguous().view(-1)
                size = CUDA_PAGE if parameter.is_cuda else PAGE
                for begin in range(0, len(values), size):
                    yield Page(group, parameter, values, begin, min(begin + size, len(values)))

    def _start(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Both averages at zero."""
        n, made = parameter.numel(), {}
        for name in ("exp_avg", "exp_avg_sq"):
            if self.bits == 8:
                made[name] = self._empty((n,), torch.uint8, parameter)
                made[f"{name}_scale"] = self._empty((-(-n // STATE_BLOCK),), torch.float32, parameter)
            else:
                made[name] = self._empty((n,), torch.float32, parameter)
        for value in made.values():
            value.zero_()
        return made

    def _stretch(self, page: Page) -> dict[str, Tensor]:
        """Views of what is kept for a page."""
        blocks = slice(page.begin // STATE_BLOCK, -(-page.end // STATE_BLOCK))
        kept = ((name, value) for name, value in self.state[page.parameter].items() if name != "step")
        return {name: value[blocks] if name.endswith("scale") else value[page.begin : page.end]
                for name, value in kept}  # fmt: skip

    def _update(self, page: Page, states: dict[str, Tensor]) -> None:
        """The step of ``torch.optim.AdamW``, operation by operation or in one kernel, on one page."""
        assert page.parameter.grad is not None
        gradient = page.parameter.grad.reshape(-1)[page.begin : page.end]
        stretch, step = page.values[page.begin : page.end], int(self.state[page.parameter]["step"])
        if self.bits == 8 and gpu.has_kernels(stretch):
            gpu.adamw_step(stretch, gradient, states, step, page.group)
        else:
            self._update_by_torch(page, stretch, gradient.float(), states)
        if not page.parameter.is_contiguous() and page.end == len(page.values):
            page.parameter.copy_(page.values.view_as(page.parameter))

    def _update_by_torch(
        self, page: Page, stretch: Tensor, gradient: Tensor, states: dict[str, Tensor]
    ) -> None:
        mean, variance = self._unpacked(states)
        mean, variance = adam_averages(mean, variance, gradient, page.group["betas"])
        weights = stretch.float()
        adamw_step(weights, mean, variance, int(self.state[page.parameter]["step"]), page.group)
        if weights.data_ptr() != stretch.data_ptr():
            stretch.copy_(weights)
        if self.bits == 8:
            _pack(states, mean, variance)

    def _unpacked(self, states: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if self.bits == 32:
            return states["exp_avg"], states["exp_avg_sq"]
        return (
            dequantize_blockwise(states["exp_avg"], states["exp_avg_scale"], dynamic_code(), STATE_BLOCK),
            dequantize_blockwise(
                states["exp_avg_sq"], states["exp_avg_sq_scale"], unsigned_dynamic_code(), STATE_BLOCK
            ),
        )

    def outside(self, parameter: Tensor) -> bool:
        """Whether the averages of ``parameter`` take no memory of its device."""
        return False

    def tables(self, device: torch.device) -> tuple[Tensor, ...]:
        """What 8-bit states need beside themselves, once a device: the two maps and how to round to them."""
        if self.bits == 32:
            return ()
        if gpu.has_kernels(torch.empty(0, device=device)):
            return gpu.optimizer_tables(device)
        return *tables(dynamic_code(), device), *tables(unsigned_dynamic_code(), device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As any optimiser's, but bytes stay bytes and scales stay fp32 whatever the parameters' type."""
        super().load_state_dict(state_dict)
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        ours = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, parameter in zip(saved, ours, strict=True):
            if key in state_dict["state"]:
                self.state[parameter] = self._restored(parameter, state_dict["state"][key])

    def _restored(self, parameter: nn.Parameter, saved: dict[str, Tensor]) -> dict[str, Tensor]:
        state = {"step": saved["step"].clone().cpu(), **self._start(parameter)}
        wanted, got = ({k: (v.shape, v.dtype) for k, v in s.items()} for s in (state, saved))
        if wanted != got:
            raise ValueError(f"the state dict holds {got}; this {self.bits}-bit optimiser needs {wanted}")
        for name, value in saved.items():
            state[name].copy_(value)
        return state

    # -- where the states are: overridden by PagedAdamW --

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype, parameter: nn.Parameter) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=parameter.device)

    def _fetch(self, page: Page) -> dict[str, Tensor]:
        return self._stretch(page)

    def _ready(self, states: dict[str, Tensor]) -> None:
        """Nothing to wait for."""

    def _store(self, page: Page, states: dict[str, Tensor]) -> None:
        """They were changed where they are."""

    def _finish(self, pages: list[Page]) -> None:
        """Nothing is under way."""


class AdamW8bit(BlockAdamW):
    """AdamW with 8-bit averages: 2.03 bytes a parameter where fp32 ones take 8. Drop-in for ``torch.optim``.

    Works on fp32, bf16 and fp16 parameters, all of whatever size in 8 bits; steps are made in fp32.
    """

    bits = 8

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(params, lr, betas, eps, weight_decay)


def adam_averages(
    mean: Tensor, variance: Tensor, gradient: Tensor, betas: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """m ← β₁ m + (1 − β₁) g and v ← β₂ v + (1 − β₂) g², in place."""
    mean.lerp_(gradient, 1 - betas[0])
    variance.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    return mean, variance


def adamw_step(weights: Tensor, mean: Tensor, variance: Tensor, step: int, group: dict[str, Any]) -> None:
    """w ← (1 − lr · λ) w − lr · m̂ / (√v̂ + ε), in place; m̂ and v̂ are the averages less their start at zero."""
    lr, (beta1, beta2) = group["lr"], group["betas"]
    weights.mul_(1 - lr * group["weight_decay"])
    root = variance.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
    weights.addcdiv_(mean, root, value=-lr / (1 - beta1**step))


def _pack(states: dict[str, Tensor], mean: Tensor, variance: Tensor) -> None:
    indices, scales = quantize_blockwise(mean, dynamic_code(), STATE_BLOCK)
    states["exp_avg"].copy_(indices)
    states["exp_avg_scale"].copy_(scales)
    indices, scales = quantize_blockwise(variance, unsigned_dynamic_code(), STATE_BLOCK)
    states["exp_avg_sq"].copy_(torch.maximum(indices, (variance > 0).to(torch.uint8)))  # 0 stands for zero
    states["exp_avg_sq_scale"].copy_(scales)
