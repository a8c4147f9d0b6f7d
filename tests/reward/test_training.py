"""The reward model on the training loop: it learns, resumes exactly, and refuses pairs without content."""

from dataclasses import replace

import pytest
import torch

from course_lib.adapters import LoRA, attach
from course_lib.catalog import architecture
from course_lib.lm import Llama
from course_lib.reward import RewardModel, pairwise_loss, train_reward_model
from course_lib.reward.data import Preference
from course_lib.reward.dpo import (
    completion_log_probability,
    implicit_reward,
    pair_log_probabilities,
    train_dpo,
)
from course_lib.reward.pairs import Shuffle, collate, encode_pairs
from course_lib.reward.training import reward_gaps
from course_lib.train import TrainConfig

# Gold rule: the answer that ends in more "a"s wins.
PAIRS = [
    Preference(f"q{k}:", "xyz"[k % 3] + "ba" * (1 + k % 3), "zyx"[k % 3] + "bb" * (1 + k % 2))
    for k in range(48)
]
CONFIG = TrainConfig(steps=30, batch_size=8, seq_len=32, learning_rate=3e-3)


def encode(text):
    return [ord(c) % 64 for c in text]


def tiny():
    torch.manual_seed(0)
    sizes = {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate": 48, "vocab": 64}
    return RewardModel(Llama(architecture("smollm2-135m").with_sizes(**sizes, head_dim=8)))


def test_a_stated_rule_is_learnt_from_pairs():
    result = train_reward_model(tiny(), PAIRS[:36], encode, CONFIG, validation=PAIRS[36:])
    assert result.losses[0] == pytest.approx(0.6931472, abs=1e-4)
    assert result.losses[-1] < 0.2
    assert result.validation_loss < 0.3
    gaps = reward_gaps(result.model, encode_pairs(PAIRS[36:], encode, 32))
    assert (gaps > 0).float().mean() > 0.9
    assert float(pairwise_loss(gaps, gaps * 0)) == pytest.approx(result.validation_loss, abs=1e-5)


def test_head_alone_leaves_the_backbone_as_it_was():
    model = tiny().freeze_backbone()
    before = [p.clone() for p in model.backbone.parameters()]
    train_reward_model(model, PAIRS, encode, CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(before, model.backbone.parameters(), strict=True))
    assert model.head.weight.abs().max() > 0


def test_an_adapter_learns_with_the_backbone_frozen():
    model = tiny()
    attach(model.backbone, LoRA(rank=2, targets=("q", "v")))
    before = {name: p.clone() for name, p in model.named_parameters()}
    result = train_reward_model(model, PAIRS[:36], encode, CONFIG, validation=PAIRS[36:])
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert result.validation_loss < 0.65
    assert "head.weight" in moved
    assert {name for name in moved if "adapters" not in name} == {"head.weight"}
    assert len(moved) == 1 + 2 * 2 * 2  # A and B on q and v of two blocks


def test_micro_batches_and_resuming_change_nothing(tmp_path):
    whole = train_reward_model(tiny(), PAIRS, encode, CONFIG)
    parts = train_reward_model(tiny(), PAIRS, encode, replace(CONFIG, micro_batch_size=3))
    torch.testing.assert_close(parts.losses[:5], whole.losses[:5], rtol=1e-4, atol=1e-5)
    train_reward_model(tiny(), PAIRS, encode, CONFIG, folder=tmp_path)
    again = train_reward_model(tiny(), PAIRS, encode, CONFIG, folder=tmp_path, resume=True)
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError):
        train_reward_model(tiny(), PAIRS[:20], encode, CONFIG, folder=tmp_path, resume=True)


def test_pairs_that_truncation_makes_equal_are_refused():
    with pytest.raises(ValueError, match="pair 1"):
        encode_pairs([PAIRS[0], Preference("p", "ab", "cb")], encode, 1)


def test_every_epoch_takes_every_row_once():
    order = Shuffle(rows=10, batch_size=4, seed=3)
    taken = [k for step in range(5) for k in order(step)]
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert taken[:10] != taken[10:]
    assert len(Shuffle(rows=3, batch_size=8, seed=0)(5)) == 8


def test_dpo_makes_the_policy_its_own_reward_model(tmp_path):
    torch.manual_seed(1)
    model, beta = tiny().backbone, 0.5
    before = {name: p.clone() for name, p in model.state_dict().items()}
    pairs = encode_pairs(PAIRS, encode, 32)
    batch, lengths = collate(pairs), torch.tensor([len(row.prompt) for row in PAIRS])

    def logs():
        with torch.no_grad():
            return [completion_log_probability(model, batch[s], batch[f"{s}_mask"], lengths)
                    for s in ("chosen", "rejected")]  # fmt: skip

    reference = logs()
    result = train_dpo(model, PAIRS, encode, CONFIG, beta=beta, folder=tmp_path)
    assert result.losses[0] == pytest.approx(0.6931472, abs=1e-4)
    assert result.losses[-1] < 0.3
    chosen, rejected = (implicit_reward(p, r, beta) for p, r in zip(logs(), reference, strict=True))
    assert (chosen > rejected).float().mean() > 0.95
    after = [p.clone() for p in model.parameters()]
    model.load_state_dict(before)
    train_dpo(model, PAIRS, encode, CONFIG, beta=beta, folder=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(after, model.parameters(), strict=True))


def test_dpo_refuses_pairs_that_do_not_fit():
    for bad in (Preference("", "a", "b"), Preference("p", "x" * 40, "b"), Preference("p", "a", "a")):
        with pytest.raises(ValueError, match="pair 1"):
            train_dpo(tiny().backbone, [PAIRS[0], bad], encode, CONFIG)


def test_pairs_are_asked_as_they_are_trained_on():
    model = tiny().backbone.train()
    asked = pair_log_probabilities(model, PAIRS[:20], encode, 32)  # more than one block
    assert model.training
    assert asked.shape == (20, 2)
    assert not asked.requires_grad
    for k in (0, 19):
        tokens = [
            torch.tensor([encode(PAIRS[k].prompt + text)]) for text in (PAIRS[k].chosen, PAIRS[k].rejected)
        ]
        for side, row in enumerate(tokens):
            begin = len(PAIRS[k].prompt)
            logs = model(row)[0, begin - 1 : -1].log_softmax(dim=-1)
            told = logs.gather(1, row[0, begin:, None]).sum()
            torch.testing.assert_close(asked[k, side], told.detach())
    with pytest.raises(ValueError, match="no preference pair"):
        pair_log_probabilities(model, [], encode, 32)
