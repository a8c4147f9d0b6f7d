"""NF4 against bitsandbytes on one CPU thread: the same bits, and milliseconds of CPU time (least of some).

Bars on 4096 × 4096: quantise 0.7, linear layer 1.0, dequantise 2.5 into new memory and 1.0 into a buffer that
is there; the 8-bit AdamW's step is timed against torch's own. Bars for bf16 layers are not set, only shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench import Row, arguments, finish
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from course_lib.quant import AdamW8bit, NF4Linear, PagedAdamW, dequantize, quantize_nf4

INFINITY = float("inf")


def least(*functions: Callable[[], object], repeat: int) -> list[float]:
    """Milliseconds of CPU time of each function, taking turns."""
    for function in functions:
        function()
    best = [INFINITY] * len(functions)
    for _ in range(repeat):
        for i, function in enumerate(functions):
            begin = time.thread_time()
            function()
            best[i] = min(best[i], 1e3 * (time.thread_time() - begin))
    return best


def compare(size: int, dtype: torch.dtype, repeat: int) -> list[Row]:
    """Every case of one type of weight."""
    import bitsandbytes as bnb
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def theirs_of(w: Tensor) -> tuple[Tensor, object]:
        return quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)

    w = (torch.randn(size, size, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
    name = f"{str(dtype).removeprefix('torch.')} {size}×{size}"
    q, (packed, state) = quantize_nf4(w), theirs_of(w)
    layer = NF4Linear(q)
    same = torch.equal(packed.view(-1), q.packed) and torch.equal(state.absmax, q.scales)
    same = same and torch.equal(dequantize_4bit(packed, state), dequantize(q))
    rows = [Row(f"{name}: bytes, scales and values that agree", float(same), 1, 1, 1)]
    ready = torch.empty_like(w)
    cases = [
        ("quantise", lambda: quantize_nf4(w), lambda: theirs_of(w), 0.7),
        ("dequantise, new memory", lambda: dequantize(q), lambda: dequantize_4bit(packed, state), 2.5),
        (
            "dequantise, ready buffer",
            lambda: dequantize(q, out=ready),
            lambda: dequantize_4bit(packed, state),
            1.0,
        ),
    ]
    for count in (1, 16, 128) if size > 1024 else (1,):
        x = torch.randn(count, size).to(dtype)
        bar = 1.0 if dtype == torch.float32 else INFINITY
        ours = lambda x=x: layer(x)  # noqa: E731
        peer = lambda x=x: bnb.matmul_4bit(x, packed.t(), state)  # noqa: E731
        cases.append((f"linear, {count} rows", ours, peer, bar))
    with torch.no_grad():
        for case, ours, peer, bar in cases:
            a, b = least(ours, peer, repeat=repeat)
            rows.append(Row(f"{name}: {case}, ms", a, b, 0, bar))
    return rows


def optimizers(count: int, repeat: int) -> list[Row]:
    """A step of AdamW over ``count`` fp32 parameters, and the bytes of its states."""
    made = []
    for cls in (AdamW8bit, PagedAdamW, torch.optim.AdamW):
        p = torch.nn.Parameter(torch.zeros(count))
        p.grad = torch.randn(count, generator=torch.Generator().manual_seed(0))
        made.append((p, cls([p])))
    times = least(*(optimizer.step for _, optimizer in made), repeat=repeat)
    sizes = [sum(v.numel() * v.element_size() for v in o.state[p].values()) for p, o in made]
    rows = [
        Row(f"{name} against torch's AdamW: step over {count:,} parameters, ms", time, times[2], 0, INFINITY)
        for name, time in zip(("8-bit AdamW", "paged AdamW"), times, strict=False)
    ]
    return [*rows, Row("8-bit AdamW: bytes of its states", sizes[0], sizes[2], 0, 0.26)]


if __name__ == "__main__":
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        rows += compare(4096, dtype, 20 if options.full else 5)
    finish(rows + optimizers(1 << 22, 5), options, "ours", "bitsandbytes")
