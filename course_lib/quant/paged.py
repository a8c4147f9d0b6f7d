"""AdamW whose averages live in host memory or in a file; two pages of them at most are on the device.

QLoRA (Dettmers et al. 2023, section 3) leaves paging to CUDA's unified memory, which moves a state when it is
touched. Here the optimiser moves them itself: while one page is being updated, the next is on its way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.quant.adamw import BlockAdamW, Page


class PagedAdamW(BlockAdamW):
    """AdamW with its averages outside the device, in 32 or 8 bits. Drop-in for ``torch.optim``.

    With CUDA parameters they lie in pinned host memory and are copied on a stream of their own; on the CPU in
    plain memory. ``folder``: they lie in an unnamed file there, which goes with the optimiser (a state dict
    is what keeps them). With 32 bits and fp32 parameters every step is ``torch.optim.AdamW``'s, bit for bit.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        bits: int = 32,
        folder: str | Path | None = None,
    ):
        if bits not in (8, 32):
            raise ValueError(f"bits must be 8 or 32, got {bits!r}")
        self.bits = bits
        self._file = None if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._length = 0  # bytes of the file that are taken
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        super().__init__(params, lr, betas, eps, weight_decay)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a PagedAdamW is neither copied nor pickled whole; use state_dict() and a new one")

    def outside(self, parameter: Tensor) -> bool:
        return self._file is not None or parameter.is_cuda

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype, parameter: nn.Parameter) -> Tensor:
        if self._file is None:
            return torch.empty(shape, dtype=dtype, pin_memory=parameter.is_cuda)
        size = shape[0] * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        made = np.memmap(self._file, np.uint8, "r+", self._length, (size,))
        self._length += -(-size // 8) * 8  # the next one starts where its numbers may
        return torch.from_numpy(made).view(dtype)

    def _fetch(self, page: Page) -> dict[str, Tensor]:
        device = page.parameter.device
        if device.type != "cuda":
            return {name: part.clone() for name, part in self._stretch(page).items()}
        stream = self._streams.setdefault(device, torch.cuda.Stream(device))
        with torch.cuda.stream(stream):
            return {name: part.to(device, non_blocking=True) for name, part in self._stretch(page).items()}

    def _ready(self, states: dict[str, Tensor]) -> None:
        for part in states.values():
            if part.is_cuda:
                now = torch.cuda.current_stream(part.device)
                now.wait_stream(self._streams[part.device])
                part.record_stream(now)

    def _store(self, page: Page, states: dict[str, Tensor]) -> None:
        device = page.parameter.device
        if device.type != "cuda":
            for name, part in self._stretch(page).items():
                part.copy_(states[name])
            return
        stream = self._streams[device]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for name, part in self._stretch(page).items():
                part.copy_(states[name], non_blocking=True)
                states[name].record_stream(stream)

    def _finish(self, pages: list[Page]) -> None:
        for stream in self._streams.values():
            stream.synchronize()  # the next to read a state may be the host
