"""Triton where it is installed: the decorator of kernels, their language, and who may use them.

Nothing here needs a GPU or Triton to be imported. With ``TRITON_INTERPRET=1`` in the environment, set before
Python starts, kernels run on the CPU in Triton's interpreter: a step at a time, for tests and for reading.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # not on this platform, or not wanted
    triton, tl = None, None

INTERPRETED = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"


def jit(function: Callable[..., None]) -> Any:
    """``triton.jit``, or without Triton the function as it is, to be read but not run."""
    return function if triton is None else triton.jit(function)


def use_triton(*tensors: Tensor | None) -> bool:
    """Whether a kernel serves these tensors: Triton is there and they lie on a CUDA device."""
    return triton is not None and (INTERPRETED or all(t is None or t.is_cuda for t in tensors))


def dot_type(dtype: torch.dtype) -> Any:
    """In what type a kernel multiplies matrices that are given in ``dtype``; it adds in fp32 always."""
    names = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
    return getattr(tl, names.get(dtype, "float32"), None)


def cdiv(a: int, b: int) -> int:
    """⌈a / b⌉."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The least power of two that is at least ``n``."""
    return 1 << max(0, n - 1).bit_length()
