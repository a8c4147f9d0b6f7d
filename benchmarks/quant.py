"""NF4 against bitsandbytes on one CPU thread: the same bits, and milliseconds of CPU time (medians of turns).

Bars on 4096 × 4096: quantise 0.7; linear layer 1.0 in fp32; dequantise 2.5 in memory as PyTorch takes it, and
1.0 in the large pages that ours asks the system for. Other rows have no bar: 16-bit layers, a buffer that is
there already, torch's own AdamW.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from bench import Row, arguments, finish
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from course_lib.quant import AdamW8bit, NF4Linear, PagedAdamW, dequantize, quantize_nf4

INFINITY = float("inf")


def medians(*functions: Callable[[], object], repeat: int) -> list[float]:
    """Milliseconds of CPU time of each function, taking turns after one that does not count."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeat + 1):
        for function, kept in zip(functions, times, strict=True):
            begin = time.thread_time()
            function()
            if turn:
                kept.append(1e3 * (time.thread_time() - begin))
    return [statistics.median(kept) for kept in times]


def compare(size: int, dtype: torch.dtype, repeat: int) -> list[Row]:
    """Every case of one type of weight."""
    import bitsandbytes as bnb
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def theirs_of(w: Tensor) -> tuple[Tensor, object]:
        return quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)

    w = (torch.randn(size, size, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
    name, bar = str(dtype).removeprefix("torch."), 1.0 if dtype == torch.float32 else INFINITY
    q, (packed, state) = quantize_nf4(w), theirs_of(w)
    layer, ready = NF4Linear(q), torch.empty_like(w)
    same = torch.equal(packed.view(-1), q.packed) and torch.equal(state.absmax, q.scales)
    same = same and torch.equal(dequantize_4bit(packed, state), dequantize(q))
    rows = [Row(f"{name}: bytes, scales and values that agree", float(same), 1, 1, 1)]
    theirs = lambda: dequantize_4bit(packed, state)  # noqa: E731
    cases = [
        ("quantise", lambda: quantize_nf4(w), lambda: theirs_of(w), 0.7),
        ("dequantise", lambda: dequantize(q), theirs, 1.0),
        ("dequantise, small pages", lambda: dequantize(q, out=torch.empty_like(w)), theirs, 2.5),
        ("dequantise into a ready buffer", lambda: dequantize(q, out=ready), theirs, INFINITY),
    ]
    for count in (1, 16, 128):
        x = torch.randn(count, size).to(dtype)
        ours = lambda x=x: layer(x)  # noqa: E731
        peer = lambda x=x: bnb.matmul_4bit(x, packed.t(), state)  # noqa: E731
        cases.append((f"linear layer, {count} row{'s' * (count > 1)}", ours, peer, bar))
    with torch.no_grad():
        for case, ours, peer, limit in cases:
            a, b = medians(ours, peer, repeat=repeat)
            rows.append(Row(f"{name}: {case}, ms", a, b, 0, limit))
    x = torch.randn(128, size).to(dtype).requires_grad_()
    g = torch.randn(128, size).to(dtype)
    ours = lambda: layer(x).backward(g)  # noqa: E731
    peer = lambda: bnb.matmul_4bit(x, packed.t(), state).backward(g)  # noqa: E731
    case = f"{name}: linear layer, 128 rows, forward and backward, ms"
    return [*rows, Row(case, *medians(ours, peer, repeat=repeat), 0, bar)]


def optimizers(count: int, repeat: int) -> list[Row]:
    """A step of AdamW over ``count`` fp32 parameters, and the bytes of its states."""
    import bitsandbytes as bnb

    classes = {
        "8-bit": AdamW8bit, "8-bit, bitsandbytes": bnb.optim.AdamW8bit,
        "paged": PagedAdamW, "torch": torch.optim.AdamW,
    }  # fmt: skip
    made = {}
    for name, cls in classes.items():
        p = torch.nn.Parameter(torch.zeros(count))
        p.grad = torch.randn(count, generator=torch.Generator().manual_seed(0))
        made[name] = p, cls([p])
    times = medians(*(optimizer.step for _, optimizer in made.values()), repeat=repeat)
    took = dict(zip(made, times, strict=True))
    kept = {name: sum(v.numel() * v.element_size() for v in o.state[p].values() if isinstance(v, Tensor))
            for name, (p, o) in made.items()}  # fmt: skip
    step = f"step over {count:,} parameters, ms"
    return [
        Row(f"8-bit AdamW: {step}", took["8-bit"], took["8-bit, bitsandbytes"], 0, 1.0),
        Row(f"8-bit AdamW, against torch's in fp32: {step}", took["8-bit"], took["torch"], 0, INFINITY),
        Row(f"paged AdamW, against torch's: {step}", took["paged"], took["torch"], 0, INFINITY),
        Row("8-bit AdamW, against torch's in fp32: bytes of states", kept["8-bit"], kept["torch"], 0, 0.26),
    ]


if __name__ == "__main__":
    options = arguments(__doc__ or "")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    turns = 25 if options.full else 9
    found = [row for dtype in (torch.float32, torch.bfloat16) for row in compare(4096, dtype, turns)]
    finish(found + optimizers(1 << 22, turns), options, "ours", "bitsandbytes")
