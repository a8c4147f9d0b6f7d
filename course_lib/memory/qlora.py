"""From 16-bit fine-tuning to QLoRA, one change at a time: where the bytes went."""

from __future__ import annotations

from typing import Any, NamedTuple

from course_lib.adapters import LoRA, Spec
from course_lib.catalog import Architecture
from course_lib.memory.predict import predict
from course_lib.memory.report import MemoryReport


class AccountLine(NamedTuple):
    """One change, the account after it, and the bytes that it took off the peak."""

    change: str
    report: MemoryReport
    saved: int

    def __str__(self) -> str:
        saved = f"{-self.saved / 1e9:+10.2f}" if self.saved else " " * 10
        return f"{self.change:44}{self.report.peak / 1e9:10.2f} GB{saved}"


def qlora_account(
    model: Architecture | str = "llama-1-65b",
    spec: Spec | None = None,
    *,
    batch_size: int = 1,
    seq_len: int = 512,
) -> tuple[AccountLine, ...]:
    """The lines between full fine-tuning in 16 bits and QLoRA (Dettmers et al. 2023, arXiv 2305.14314).

    In this order: Adam on all 16-bit weights; only an adapter is trained (``spec``, by default the LoRA of
    rank 64 that the paper's section 5 uses); the base in NF4; its scales in 8 bits; activations made again
    instead of kept; Adam's averages paged out. The paper's own figures for LLaMA-65B are "more than 780 GB"
    and "less than 48 GB". Every report is that of ``predict`` with bf16 on a GPU, at the peak.
    """
    spec = LoRA(64) if spec is None else spec
    name = f"only an adapter is trained: {type(spec).__name__}"
    name += f", r = {rank}" if (rank := getattr(spec, "rank", None)) is not None else ""
    changes: list[tuple[str, dict[str, Any]]] = [
        ("all weights are trained, 16 bits, Adam", {}),
        (name, {"method": spec}),
        ("the base in NF4, 4.5 bits a parameter", {"quantization": "nf4"}),
        ("double quantisation, 4.127 bits", {"quantization": "nf4-dq"}),
        ("activations made again (checkpointing)", {"checkpointing": True}),
        ("Adam's averages paged to host memory", {"optimizer": "adamw-paged"}),
    ]
    setting: dict[str, Any] = {"batch_size": batch_size, "seq_len": seq_len, "dtype": "bf16"}
    lines: list[AccountLine] = []
    for change, update in changes:
        setting |= update
        report = predict(model, **setting)
        lines.append(AccountLine(change, report, lines[-1].report.peak - report.peak if lines else 0))
    return tuple(lines)
