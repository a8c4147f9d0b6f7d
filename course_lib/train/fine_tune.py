"""Supervised fine-tuning: pairs of prompt and completion, with the loss on the completion alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from course_lib.lm import IGNORED, Llama, Tokenizer, generate
from course_lib.train import distributed
from course_lib.train.config import TrainConfig
from course_lib.train.loop import Batch, TrainResult, train
from course_lib.train.pretrain import language_modeling
from course_lib.train.progress import reporters


class Example(NamedTuple):
    """One thing to learn: after ``prompt`` the model shall write ``completion`` and end its text."""

    prompt: str
    completion: str


class CompletionRows:
    """Examples as rows of tokens, one each (padded at the right) or several (packed, each its own segment).

    Targets are IGNORED on prompts and padding. A packed example sees only itself: segments restart
    attention and positions. Raises ValueError, naming the example, for one that is empty or longer than
    ``seq_len``.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        seq_len: int,
        packed: bool = False,
        seed: int = 0,
    ):
        if not examples:
            raise ValueError("there is no example to learn from")
        self.seed, self.seq_len = seed, seq_len
        encoded = [_encode(i, example, tokenizer, seq_len) for i, example in enumerate(examples)]
        groups = (
            _first_fit([len(tokens) for tokens, _ in encoded], seq_len) if packed else _one_each(len(encoded))
        )
        self.rows = [[encoded[i] for i in group] for group in groups]

    def batch_at(self, step: int, batch_size: int) -> Batch:
        """The rows of one step: a function of (seed, step) alone; every row once an epoch, in a seeded
        order.
        """
        count = len(self.rows)
        places = range(step * batch_size, (step + 1) * batch_size)
        orders = {epoch: self._order(epoch) for epoch in {place // count for place in places}}
        return self.batch(int(orders[place // count][place % count]) for place in places)

    def batch(self, indices: Iterable[int]) -> Batch:
        """Tokens, targets and segments of some rows, each (rows, longest of them)."""
        chosen = [self.rows[i] for i in indices]
        length = max(sum(len(tokens) for tokens, _ in row) for row in chosen)
        tokens = torch.zeros(len(chosen), length, dtype=torch.long)
        targets = torch.full_like(tokens, IGNORED)
        segments = torch.full_like(tokens, -1)  # padding is a segment of its own
        for i, row in enumerate(chosen):
            begin = 0
            for number, (ids, goals) in enumerate(row):
                span = slice(begin, begin + len(ids))
                tokens[i, span], targets[i, span], segments[i, span] = (
                    torch.tensor(ids),
                    torch.tensor(goals),
                    number,
                )
                begin += len(ids)
        packed = any(len(row) > 1 for row in chosen)
        batch = {"tokens": tokens, "targets": targets}
        # padding at the right is never seen by what stands before it: a row of one needs no segments
        return batch | {"segments": segments} if packed else batch

    def fingerprint(self) -> str:
        """Names the rows by their content, so that a run goes on with its own data only."""
        return f"{len(self.rows)} rows, {hashlib.sha256(repr(self.rows).encode()).hexdigest()[:16]}"

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))


def fine_tune(
    model: nn.Module,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    config: TrainConfig,
    *,
    packed: bool = False,
    validation: Sequence[Example] = (),
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Train whatever requires gradients (all of the model, or an attached adapter) on prompt/completion
    pairs.

    ``validation`` examples are evaluated by their loss a completion token. Resuming, errors and determinism
    are those of ``pretrain``; ``config.seq_len`` is the longest prompt and completion together, in tokens.
    """
    rows = CompletionRows(examples, tokenizer, config.seq_len, packed, config.seed)
    held_out = CompletionRows(validation, tokenizer, config.seq_len) if validation else None
    if isinstance(model, Llama):
        model.model.checkpointing = config.checkpointing
    shown = progress and distributed.rank() == 0
    return train(
        model,
        lambda step: rows.batch_at(step, config.batch_size),
        language_modeling,
        config,
        evaluate=None if held_out is None else lambda trained: completion_loss(trained, held_out),
        folder=folder,
        resume=resume,
        data_id=rows.fingerprint(),
        reporters=reporters(shown, "fine-tuning"),
    )


@torch.no_grad()
def completion_loss(model: nn.Module, rows: CompletionRows, batch_size: int = 32) -> float:
    """Mean loss in nats a completion token over all rows."""
    device = next(model.parameters()).device
    total, weight = 0.0, 0.0
    for begin in range(0, len(rows.rows), batch_size):
        batch = rows.batch(range(begin, min(begin + batch_size, len(rows.rows))))
        loss, count = language_modeling(model, {name: values.to(device) for name, values in batch.items()})
        total, weight = total + float(loss), weight + float(count)
    return total / weight


@torch.no_grad()
def exact_match(
    model: Llama, tokenizer: Tokenizer, examples: Sequence[Example], batch_size: int = 64
) -> float:
    """Share of examples whose greedy completion is the wanted one to the letter (and then ends)."""
    right, was_training = 0, model.training
    model.eval()
    for begin in range(0, len(examples), batch_size):
        chosen = examples[begin : begin + batch_size]
        wanted = [tokenizer.encode(example.completion) for example in chosen]
        prompts = [tokenizer.encode(example.prompt) for example in chosen]
        longest = max(map(len, wanted)) + 1
        written = generate(model, prompts, longest, stop=[tokenizer.eos_id])
        right += sum(ids == goal for ids, goal in zip(written, wanted, strict=True))
    model.train(was_training)
    return right / len(examples)


def _encode(number: int, example: Example, tokenizer: Tokenizer, seq_len: int) -> tuple[list[int], list[int]]:
    """Inputs and targets of one example; prompt and completion are encoded apart, as ``generate`` will see
    them.
    """
    prompt = tokenizer.encode(example.prompt)
    completion = [*tokenizer.encode(example.completion), tokenizer.eos_id]
    if not prompt:
        raise ValueError(f"example {number} has an empty prompt: {example}")
    if len(prompt) + len(completion) - 1 > seq_len:
        raise ValueError(
            f"example {number} has {len(prompt) + len(completion) - 1} tokens, "
            f"more than seq_len = {seq_len}: {example.prompt[:60]!r}"
        )
    tokens = [*prompt, *completion]
    return tokens[:-1], [IGNORED] * (len(prompt) - 1) + completion


def _first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put each length into the first row that still has room, longest first (first-fit decreasing)."""
    room: list[int] = []
    rows: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((row for row, left in enumerate(room) if left >= lengths[i]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(capacity)
        rows[place].append(i)
        room[place] -= lengths[i]
    return rows


def _one_each(count: int) -> list[list[int]]:
    return [[i] for i in range(count)]
