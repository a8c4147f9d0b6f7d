"""Direct preference optimisation: Bradley-Terry in disguise.

Rafailov et al. 2023 (arXiv 2305.18290, eq. 7). A policy π that maximises reward at a price β on KL from π_ref
has r(x, x̂) = β log(π(x̂|x) / π_ref(x̂|x)) up to a constant of x, which comparisons under one prompt never see.
So the policy is its own reward model, trained by the reward model's own loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.reward.batch import to_the_left_edge
from course_lib.reward.data import Preference
from course_lib.reward.loss import pairwise_loss
from course_lib.reward.pairs import Batch, Encode, Pair, Shuffle, collate, digest, prompted
from course_lib.train import TrainConfig, TrainResult, train


def implicit_reward(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """β (log π − log π_ref), for log-probabilities of whole completions (B,)."""
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be positive, got {beta}")
    if policy.shape != reference.shape:
        raise ValueError(
            f"policy and reference differ in shape: {tuple(policy.shape)}, {tuple(reference.shape)}"
        )
    return beta * (policy - reference)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
    label: Tensor | float = 1.0,
) -> Tensor:
    """Mean of −log σ(r_chosen − r_rejected) with implicit rewards; ``label`` as in ``pairwise_loss``.

    All four are log-probabilities (B,) of completions, summed over their tokens, not averaged.
    """
    chosen = implicit_reward(policy_chosen, reference_chosen, beta)
    rejected = implicit_reward(policy_rejected, reference_rejected, beta)
    return pairwise_loss(chosen, rejected, label=label)


def completion_log_probability(
    model: nn.Module, tokens: Tensor, mask: Tensor, prompt_lengths: Tensor
) -> Tensor:
    """log π(completion | prompt) (B,): the sum over completion tokens, prompt and padding left out.

    ``model`` is ours or a Hugging Face causal model; ``prompt_lengths`` (B,) counts each row's prompt tokens.
    """
    tokens, mask, last = to_the_left_edge(tokens, mask)
    if prompt_lengths.shape != last.shape or bool(((prompt_lengths < 1) | (prompt_lengths > last)).any()):
        raise ValueError("every row needs at least 1 prompt token and 1 completion token; see prompt_lengths")
    takes_mask = hasattr(model, "config")
    out: Any = model(input_ids=tokens, attention_mask=mask.long()) if takes_mask else model(tokens)
    logits = (out.logits if hasattr(out, "logits") else out)[:, :-1].float()
    chosen = logits.gather(2, tokens[:, 1:, None])[..., 0] - logits.logsumexp(dim=-1)
    place = torch.arange(1, tokens.shape[1], device=tokens.device)
    completion = (place >= prompt_lengths[:, None]) & (place <= last[:, None])
    return torch.where(completion, chosen, 0.0).sum(dim=1)


def pair_log_probabilities(
    model: nn.Module, preferences: Sequence[Preference], encode: Encode, seq_len: int
) -> Tensor:
    """log π(completion | prompt) (pairs, 2) of every pair's chosen and rejected completion, in nats.

    With a policy's and its reference's, ``implicit_reward`` says what the policy has learned to prefer.
    Raises ValueError, naming the pair that does not fit ``seq_len`` whole or whose sides are the same.
    """
    return _all_logs(model, _prompted(preferences, encode, seq_len))


def train_dpo(
    policy: nn.Module,
    preferences: Sequence[Preference],
    encode: Encode,
    config: TrainConfig,
    *,
    beta: float = 0.1,
    folder: str | Path | None = None,
    resume: bool = False,
) -> TrainResult:
    """Direct preference optimisation; the reference is ``policy`` as it comes, asked once before training.

    Texts must fit ``config.seq_len`` whole. To resume, give the policy as it was at the start: the checkpoint
    brings the rest. Raises ValueError, naming the pair that is too long or whose sides are the same.
    """
    pairs = _prompted(preferences, encode, config.seq_len)
    reference = _all_logs(policy, pairs)
    order = Shuffle(len(pairs), config.batch_size, config.seed)

    def batch_at(step: int) -> Batch:
        rows = order(step)
        return _collate([pairs[k] for k in rows]) | {"reference": reference[rows]}

    def objective(module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        chosen, rejected = _completion_logs(module, batch)
        good, bad = batch["reference"].unbind(dim=1)
        mean = dpo_loss(chosen, rejected, good, bad, beta)
        return mean * len(chosen), torch.tensor(float(len(chosen)), device=mean.device)

    return train(
        policy, batch_at, objective, config, folder=folder, resume=resume,
        data_id=digest(pairs),
    )  # fmt: skip


def _prompted(preferences: Sequence[Preference], encode: Encode, seq_len: int) -> list[tuple[Pair, int]]:
    if not preferences:
        raise ValueError("there is no preference pair")
    return [prompted(k, row, encode, seq_len) for k, row in enumerate(preferences)]


@torch.no_grad()
def _all_logs(model: nn.Module, pairs: Sequence[tuple[Pair, int]]) -> Tensor:
    """log π (pairs, 2) of chosen and rejected, without dropout, asked for in blocks; on the CPU."""
    training = model.training
    model.eval()
    blocks = (pairs[begin : begin + 16] for begin in range(0, len(pairs), 16))
    logs = [torch.stack(_completion_logs(model, _collate(block)), dim=1).cpu() for block in blocks]
    model.train(training)
    return torch.cat(logs)


def _collate(rows: Sequence[tuple[Pair, int]]) -> Batch:
    return collate([pair for pair, _ in rows]) | {"prompt": torch.tensor([length for _, length in rows])}


def _completion_logs(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """log π (B,) of chosen and of rejected completions."""
    device = next(model.parameters()).device
    chosen, rejected = (
        completion_log_probability(
            model, *(x.to(device) for x in (batch[side], batch[f"{side}_mask"], batch["prompt"]))
        )
        for side in ("chosen", "rejected")
    )
    return chosen, rejected
