"""A linear layer whose weight stays in NF4, and a model made of them: the frozen base of QLoRA."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.quant import gpu
from course_lib.quant.blockwise import CHUNK
from course_lib.quant.nf4 import NF4Tensor, Unpacker, dequantize, quantize_nf4

_CUDA_CHUNK = 1 << 24  # numbers


class NF4Linear(nn.Module):
    """y = W x + b with W (d_out, d_in) in NF4; W is frozen, x may be fp32, bf16 or fp16.

    Forward and backward unpack some rows of W at a time and save nothing but x's shape: dX = g W needs W
    alone. On a CUDA device with Triton they run as kernels do (``course_lib.kernels.nf4_linear``).
    """

    packed: Tensor
    scales: Tensor
    second: Tensor | None
    offset: Tensor | None

    def __init__(self, weight: NF4Tensor, bias: Tensor | None = None):
        super().__init__()
        if len(weight.shape) != 2:
            raise ValueError(f"a linear layer's weight has two dimensions, got {tuple(weight.shape)}")
        self.out_features, self.in_features = weight.shape
        self.block_size, self.dtype = weight.block_size, weight.dtype
        for name in ("packed", "scales", "second", "offset"):
            self.register_buffer(name, getattr(weight, name))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @classmethod
    def from_linear(cls, linear: nn.Linear, block_size: int = 64, double_quant: bool = True) -> NF4Linear:
        """Quantise an ``nn.Linear``; one with adapters, or of a subclass that is not called, is refused."""
        if any(True for _ in linear.children()):
            raise ValueError("adapters hang on this layer; quantise first, then attach")
        if isinstance(linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
            raise ValueError("nn.MultiheadAttention reads this layer's weight and never calls it; skip it")
        return cls(quantize_nf4(linear.weight, block_size, double_quant), linear.bias)

    @property
    def quantized(self) -> NF4Tensor:
        """The weight as an :class:`NF4Tensor`."""
        shape = torch.Size((self.out_features, self.in_features))
        return NF4Tensor(
            self.packed, self.scales, self.second, self.offset, shape, self.dtype, self.block_size
        )

    def dense_weight(self) -> Tensor:
        """W (d_out, d_in) dequantised, in the original's type."""
        return dequantize(self.quantized)

    def _apply(self, fn: Any, recurse: bool = True) -> NF4Linear:
        """``.to``, ``.half`` and the like: the weight's own type follows, its scales stay what they are."""
        before = {name: getattr(self, name) for name in ("scales", "second", "offset")}
        super()._apply(fn, recurse)
        for name, kept in before.items():
            if kept is not None and (moved := getattr(self, name)).dtype != kept.dtype:
                setattr(self, name, kept.to(moved.device))
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.packed.device)).dtype
        return self

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y: Tensor
        if gpu.has_kernels(x):
            y = gpu.product(x, self.quantized)
        else:
            y = _Product.apply(x, self.quantized)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, block_size={self.block_size}"
        )


class _Product(torch.autograd.Function):
    """x (…, d_in) → x Wᵀ (…, d_out), W unpacked in chunks of rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: NF4Tensor) -> Tensor:
        ctx.weight = weight
        rows = x.reshape(-1, x.shape[-1])
        out = x.new_empty(len(rows), weight.shape[0])
        for begin, end, part in _rows(weight, x.dtype):
            torch.mm(rows, part.T, out=out[:, begin:end])
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        (g,) = gradients
        if not ctx.needs_input_grad[0]:
            return None, None
        grad = _input_gradient(g.reshape(-1, g.shape[-1]), ctx.weight)
        return grad.view(*g.shape[:-1], -1), None


def _input_gradient(g: Tensor, weight: NF4Tensor) -> Tensor:
    """g W; g (tokens, d_out). Sums over chunks of rows would be rounded each time in 16 bits: there W is
    unpacked by columns, or all is summed in fp32 where its rows are not whole blocks.
    """
    d_in = weight.shape[1]
    if g.dtype in (torch.float16, torch.bfloat16) and d_in % weight.block_size == 0:
        grad = g.new_empty(len(g), d_in)
        for begin, end, part in _columns(weight, g.dtype):
            torch.mm(g, part, out=grad[:, begin:end])
        return grad
    wide = g.float() if g.dtype in (torch.float16, torch.bfloat16) else g
    grad = wide.new_zeros(len(g), d_in)
    for begin, end, part in _rows(weight, wide.dtype):
        grad.addmm_(wide[:, begin:end], part)
    return grad.to(g.dtype)


def _rows(weight: NF4Tensor, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
    """(first row, last row, those rows of W), a row count at a time whose numbers are whole blocks."""
    d_out, d_in = weight.shape
    least = weight.block_size // math.gcd(d_in, weight.block_size)
    step = max(1, _chunk(weight) // (d_in * least)) * least
    unpack = Unpacker(weight, dtype)
    for begin in range(0, d_out, step):
        end = min(d_out, begin + step)
        yield begin, end, unpack(begin * d_in, end * d_in).view(end - begin, d_in)


def _columns(weight: NF4Tensor, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
    """(first column, last column, those columns of W), whole blocks at a time."""
    d_out, d_in = weight.shape
    step = max(1, _chunk(weight) // (d_out * weight.block_size)) * weight.block_size
    unpack = Unpacker(weight, dtype)
    for begin in range(0, d_in, step):
        end = min(d_in, begin + step)
        yield begin, end, unpack.columns(begin, end)


def _chunk(weight: NF4Tensor) -> int:
    """Numbers of W to unpack at a time: a GPU needs more at once to be busy."""
    return _CUDA_CHUNK if weight.packed.is_cuda else CHUNK


def quantize_model(
    model: nn.Module, skip: tuple[str, ...] = ("lm_head",), block_size: int = 64, double_quant: bool = True
) -> nn.Module:
    """Replace every ``nn.Linear`` of ``model`` by an :class:`NF4Linear`, in place; returns the model.

    ``skip`` are the last parts of names to leave alone: as in QLoRA the output head (which may be the
    embedding) is not quantised. Raises ValueError, naming the layer and before anything is changed, for a
    weight that is not finite, a layer with adapters (attach them afterwards), and one whose owner reads its
    weight and never calls it (``nn.MultiheadAttention``).
    """
    found = {
        name: module for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] not in skip
    }  # fmt: skip
    made: dict[nn.Module, nn.Module] = {}
    for name, module in found.items():
        try:
            made[module] = NF4Linear.from_linear(module, block_size, double_quant)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    put_modules(model, made)
    return model


def put_modules(model: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """Put modules in the place of others, under every name that these have."""
    if model in made:
        raise ValueError("the model is itself the layer to replace; give the module that holds it")
    for module in list(model.modules()):  # a list: what is put in place is not searched
        for name, child in module._modules.items():
            if child is not None and child in made:
                module._modules[name] = made[child].train(child.training)
