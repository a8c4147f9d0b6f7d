"""Bytes of a step from a configuration alone: any model size, in milliseconds, before anything is
allocated.
"""

from __future__ import annotations

import math
from typing import Literal

from course_lib.adapters import Spec
from course_lib.catalog import Architecture, architecture
from course_lib.memory.activations import Block, blocks, ends
from course_lib.memory.report import MemoryReport
from course_lib.memory.static import (
    DTYPES,
    OPTIMIZERS,
    QUANTIZATIONS,
    Setting,
    optimizer_workspace,
    static_parts,
    unpacked,
)

_NORM_WIDTH = 4  # norms compute, and keep, fp32
_IDS = 16  # bytes of a token's id and target (int64), which the caller holds throughout
_SCALARS = 12  # loss, its weight, its gradient


def predict(
    model: Architecture | str,
    method: Spec | Literal["full"] = "full",
    *,
    phase: Literal["train", "inference"] = "train",
    batch_size: int = 1,
    seq_len: int = 512,
    dtype: str = "fp32",
    optimizer: str = "adamw",
    quantization: str = "none",
    checkpointing: bool = False,
    device: Literal["cuda", "cpu"] = "cuda",
) -> MemoryReport:
    """Bytes by category, and the peak, of one training step or of generating after a prompt of ``seq_len``
    tokens.

    ``method`` is "full" or an adapter spec (the base is frozen then). ``dtype``: fp32; bf16 or fp16 (16-bit
    weights and gradients, fp32 Adam: 12 bytes a trainable parameter); mixed (with an fp32 master copy and
    fp32 gradients: 18); pure-bf16 (8). ``quantization`` stores the frozen blocks' linear maps as NF4,
    "nf4-dq" with double quantisation. ``optimizer``: "adamw" is PyTorch's, "adamw-8bit" keeps 8-bit states,
    "adamw-paged" and "adamw-8bit-paged" keep them outside the device, which ``paged`` of the report counts.
    The step is the course's own: next-token loss on fp32 logits, single-tensor AdamW whose states exist
    already. ``device`` matters for quantised weights, unpacked whole for a GPU's GEMM and in chunks on a CPU,
    and for pages of states. On a CPU the peak is within 2 % of a real step's; only DoRA with dropout under
    checkpointing has its peak in the forward pass that is made again, up to 5 % above.
    Raises ValueError for what cannot be, naming the argument; KeyError for an unknown architecture.
    """
    arch = architecture(model) if isinstance(model, str) else model
    _check(arch, method, phase, batch_size, seq_len, dtype, optimizer, quantization, device)
    setting = Setting(arch, None if method == "full" else method, DTYPES[dtype], optimizer, quantization,
                       batch_size, seq_len, checkpointing, device)  # type: ignore[arg-type]  # fmt: skip
    static, paged = static_parts(setting, phase)
    moments = _inference(setting) if phase == "inference" else _training(setting, static)
    fixed = {name: size for name, size in static.items() if name != "gradients"}
    moment, extra = max(moments.items(), key=lambda item: sum(item[1].values()))
    largest = fixed | {"gradients": static["gradients"]}
    for name in {name for parts in moments.values() for name in parts} - {"gradients"}:
        largest[name] = max(parts.get(name, 0) for parts in moments.values())
    timeline = tuple((name, sum(fixed.values()) + sum(parts.values())) for name, parts in moments.items())
    return MemoryReport(_filled(largest), _filled(fixed | extra), moment, timeline, paged=paged)


# -- moments of a step --


def _training(setting: Setting, static: dict[str, int]) -> dict[str, dict[str, int]]:
    """What is alive beside the static part at the moments where the peak can be.

    While the backward pass goes down the blocks, gradients appear and activations go, both in equal steps; so
    the most is alive at one of its two ends: when the loss's gradient is there, in the last block, in the
    first, or in the optimiser's step.
    """
    arch, spec, width = setting.arch, setting.spec, setting.policy.activation
    account = blocks(arch, spec, width)
    outside = math.ceil(
        setting.tokens * sum(e.bytes_per_token for e in ends(arch, spec, width, account[-1].learns))
    )
    tables = 2 * setting.length * arch.head_dim * width * any(block.rotates for block in account)
    outside += tables + _SCALARS
    kept = [_kept(setting, block) for block in account]
    full = [_saved(setting, block) for block in account]
    # a block's input is there already: in fp32 its norm keeps that very one
    given = setting.tokens * arch.hidden * width if width == _NORM_WIDTH else 0
    again = [size - given for size in full] if setting.checkpointing else [0] * len(full)
    gradients = static["gradients"]
    head, layer = _gradient_parts(setting, gradients)
    saved = sum(kept) + outside
    moments = {
        "backward: the loss's gradient": {"activations": saved, "logits": 3 * setting.logits},
        "backward: the head": {
            "activations": saved, "logits": setting.tokens * arch.vocab * width, "gradients": head,
            "workspace": setting.tokens * arch.hidden * width,
        },
        "backward: the last block": {
            "activations": sum(kept) + _IDS * setting.tokens, "recompute": again[-1], "gradients": head,
            "workspace": _block_workspace(setting, account[-1]),
        },
        "backward: the first block": {
            "activations": kept[0] + _IDS * setting.tokens, "recompute": again[0],
            "gradients": gradients - layer, "workspace": _block_workspace(setting, account[-1]),
        },
        "backward: the embedding": {
            "activations": _IDS * setting.tokens, "gradients": gradients,
            "workspace": _embedding_workspace(setting),
        },
        "optimizer step": {
            "activations": _IDS * setting.tokens, "gradients": gradients,
            "workspace": optimizer_workspace(setting),
        },
    }  # fmt: skip
    return moments


def _kept(setting: Setting, block: Block) -> int:
    """Bytes one block keeps until its backward pass: all, or with checkpointing its input alone."""
    width = setting.policy.activation
    return setting.tokens * setting.arch.hidden * width if setting.checkpointing else _saved(setting, block)


def _saved(setting: Setting, block: Block) -> int:
    """Bytes of all that one block saves."""
    return math.ceil(setting.tokens * block.bytes_per_token) + block.fixed


def _gradient_parts(setting: Setting, gradients: int) -> tuple[int, int]:
    """Bytes of the gradients that exist before the blocks' (the head's), and of one block's and the
    embedding's.
    """
    if setting.spec is not None:
        return 0, gradients // setting.arch.layers
    size, arch = setting.policy.gradient, setting.arch
    head = arch.vocab * arch.hidden * size
    embedding = 0 if arch.tied else arch.embedding_parameters() * size
    return head, (arch.linear_parameters() // arch.layers) * size + embedding


def _block_workspace(setting: Setting, last: Block) -> int:
    """In a block's backward pass: the residual's gradient and three of SwiGLU's.

    These take the place of what the last map of the block was kept for: SwiGLU's product, its adapter's own.
    """
    arch = setting.arch
    width = (arch.hidden + 3 * arch.intermediate) * setting.policy.activation
    gone = math.ceil(setting.tokens * last.down_bytes_per_token) + last.down_fixed
    return setting.tokens * width - gone + unpacked(setting)


def _embedding_workspace(setting: Setting) -> int:
    """The residual's gradient; where embedding and head are one, the second of its two gradients and their
    sum.
    """
    arch, policy = setting.arch, setting.policy
    if setting.spec is not None:
        return 0
    if arch.tied:
        return 2 * arch.vocab * arch.hidden * policy.gradient
    return setting.tokens * arch.hidden * policy.activation


def _inference(setting: Setting) -> dict[str, dict[str, int]]:
    """Reading the prompt: the cache, and the widest moment of a block or the last position's logits."""
    arch, width, tokens = setting.arch, setting.policy.activation, setting.tokens
    cache = 2 * arch.layers * tokens * arch.kv_heads * arch.head_dim * width
    tables = 2 * setting.length * arch.head_dim * width
    # residual, normed and result beside gate's, up's and their product; or up's own product under way
    inside = tokens * width * arch.intermediate
    mlp = tokens * width * 3 * arch.hidden + 2 * inside + max(inside, unpacked(setting)) + tables + 8 * tokens
    return {
        "the MLP of a block": {"kv_cache": cache, "workspace": mlp},
        "the next token's logits": {"kv_cache": cache, "logits": setting.batch * arch.vocab * (width + 4)},
    }


# -- the boundary --


def _check(
    arch: Architecture,
    method: object,
    phase: str,
    batch: int,
    length: int,
    dtype: str,
    optimizer: str,
    quant: str,
    device: str,
) -> None:
    if method != "full" and not isinstance(method, Spec):
        raise ValueError(f"method must be 'full' or an adapter spec such as LoRA(8), got {method!r}")
    for name, value, known in (
        ("phase", phase, ("train", "inference")), ("dtype", dtype, tuple(DTYPES)),
        ("optimizer", optimizer, OPTIMIZERS), ("quantization", quant, QUANTIZATIONS),
        ("device", device, ("cuda", "cpu")),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    for name, size in (("batch_size", batch), ("seq_len", length)):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")
    if length > arch.max_length:
        raise ValueError(f"seq_len {length} is longer than the {arch.max_length} tokens of {arch.name}")
    if quant != "none" and method == "full" and phase == "train":
        raise ValueError(
            "quantised weights cannot be trained; give an adapter spec as method (that is QLoRA)"
        )


def _filled(parts: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in parts.items() if size}
