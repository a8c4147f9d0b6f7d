"""New memory for large results, in pages that are large too.

On Linux most of the time of writing to new memory goes into its pages: 16,384 of 4 KB for a 64 MB weight,
each of them made when it is first touched. ``madvise`` asks for pages of 2 MB, as numpy does for its arrays.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor

_LEAST = 1 << 22  # bytes of a tensor for which it pays
_PAGE = 4096
_HUGE = 14  # MADV_HUGEPAGE of Linux's sys/mman.h


def new_tensor(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``torch.empty``, in large pages where the system has them."""
    made = torch.empty(shape, dtype=dtype, device=device)
    size = made.numel() * made.element_size()
    if device.type == "cpu" and size >= _LEAST and (advise := _madvise()) is not None:
        skipped = -made.data_ptr() % _PAGE
        advise(made.data_ptr() + skipped, (size - skipped) // _PAGE * _PAGE, _HUGE)  # a hint: may be refused
    return made


@cache
def _madvise() -> Any | None:
    """The C library's own, or None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
