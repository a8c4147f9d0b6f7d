"""One frozen record says how a run trains; everything else follows from it and the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """How to train: with the model's start and the data, all that a run depends on.

    Defaults suit small language models: AdamW, 5 % linear warmup, cosine decay matched to the run's length.
    """

    steps: int = 1000  # optimiser steps
    batch_size: int = 16  # sequences (or pairs) per optimiser step, over all devices
    micro_batch_size: int | None = None  # sequences per forward pass; fewer accumulates gradients
    seq_len: int = 128  # tokens per sequence
    learning_rate: float = 1e-3  # peak
    final_fraction: float = 0.1  # learning rate at the end, as a share of the peak
    warmup_fraction: float = 0.05  # share of the steps in which the learning rate rises linearly
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.1  # on matrices alone, decoupled (Loshchilov & Hutter 2019)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    clip_norm: float = 1.0  # largest global gradient norm; 0 does not clip
    autocast: Literal["none", "bf16"] = "none"  # bf16 arithmetic with fp32 weights
    checkpointing: bool = False  # keep block inputs only and recompute activations in the backward pass
    seed: int = 0  # order of the data, dropout
    evaluate_every: int = 0  # steps between evaluations; 0 evaluates at the end alone
    save_every: int = 0  # steps between checkpoints; 0 saves at the end alone (where there is a folder)

    def __post_init__(self) -> None:
        bounds = {
            "steps": (1, math.inf), "batch_size": (1, math.inf), "seq_len": (1, math.inf),
            "learning_rate": (0.0, math.inf), "final_fraction": (0.0, 1.0), "warmup_fraction": (0.0, 1.0),
            "weight_decay": (0.0, math.inf), "eps": (0.0, math.inf), "clip_norm": (0.0, math.inf),
            "evaluate_every": (0, math.inf), "save_every": (0, math.inf),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise ValueError(f"TrainConfig.{name} must be between {low} and {high}, got {value!r}")
        self._check_choice("schedule", ("cosine", "linear", "constant"))
        self._check_choice("autocast", ("none", "bf16"))
        if self.micro_batch_size is not None and not 1 <= self.micro_batch_size <= self.batch_size:
            raise ValueError(
                f"micro_batch_size must be between 1 and batch_size ({self.batch_size}), "
                f"got {self.micro_batch_size}"
            )

    def _check_choice(self, name: str, known: tuple[str, ...]) -> None:
        if getattr(self, name) not in known:
            raise ValueError(
                f"TrainConfig.{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
            )

    @property
    def warmup_steps(self) -> int:
        return round(self.steps * self.warmup_fraction)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of optimiser step ``step`` (from 0): linear warmup, then the schedule down to the
        final share.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - 1 - self.warmup_steps)
        fall = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * fall[self.schedule])

    def differences(self, other: dict[str, object]) -> list[str]:
        """Fields in which a stored config differs from this one, as readable text."""
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        return [
            f"{name}: {other.get(name)!r} there, {value!r} here"
            for name, value in mine.items()
            if other.get(name) != value
        ]
