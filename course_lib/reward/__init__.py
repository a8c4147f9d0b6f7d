"""Choice models, Bradley-Terry fits that know when they cannot be trusted, and neural reward models."""

from course_lib.reward.agreement import accuracy, agreement_ceiling, calibration, length_bias, win_rate
from course_lib.reward.batch import pad_right
from course_lib.reward.bradley_terry import fit_bradley_terry
from course_lib.reward.data import Preference, load_preferences, rated_pairs, save_preference, vader_ratings
from course_lib.reward.dpo import dpo_loss, implicit_reward, pair_log_probabilities, train_dpo
from course_lib.reward.existence import NoMaximum
from course_lib.reward.gold import gold_rule, judged_pairs
from course_lib.reward.linear import fit_linear_reward
from course_lib.reward.loss import pairwise_loss
from course_lib.reward.model import RewardModel
from course_lib.reward.overoptimisation import fit_overoptimisation, proxy_gold_curve
from course_lib.reward.ranking import Ranking
from course_lib.reward.selection import (
    best_of_n,
    best_of_n_curve,
    best_of_n_distribution,
    best_of_n_kl,
    kl_divergence,
)
from course_lib.reward.training import train_reward_model
from course_lib.reward.utility import (
    bradley_terry_probability,
    sample_choices,
    sample_rankings,
    sample_utilities,
    thurstone_probability,
)

__all__ = [
    "NoMaximum",
    "Preference",
    "Ranking",
    "RewardModel",
    "accuracy",
    "agreement_ceiling",
    "best_of_n",
    "best_of_n_curve",
    "best_of_n_distribution",
    "best_of_n_kl",
    "bradley_terry_probability",
    "calibration",
    "dpo_loss",
    "fit_bradley_terry",
    "fit_linear_reward",
    "fit_overoptimisation",
    "gold_rule",
    "implicit_reward",
    "judged_pairs",
    "kl_divergence",
    "length_bias",
    "load_preferences",
    "pad_right",
    "pair_log_probabilities",
    "pairwise_loss",
    "proxy_gold_curve",
    "rated_pairs",
    "sample_choices",
    "sample_rankings",
    "sample_utilities",
    "save_preference",
    "thurstone_probability",
    "train_dpo",
    "train_reward_model",
    "vader_ratings",
    "win_rate",
]
