"""Chapter 6, from choices to rewards: Bradley and Terry's model, its fit, the reward model, its use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course_lib.exercises.record import Case, Exercise, Mistake

Array = np.ndarray


def _mistakes(wrong: Callable[[str], Callable[..., Any]], hints: dict[str, str]) -> tuple[Mistake, ...]:
    return tuple(Mistake(kind, wrong(kind), hint) for kind, hint in hints.items())


def _log_sigmoid(x: Any) -> Any:
    return -np.logaddexp(0, -np.asarray(x, dtype=np.float64))


# -- 6.1


def _preference(r1: float, r2: float) -> float:
    return float(np.exp(_log_sigmoid(r1 - r2)))


def _preference_cases(rng: np.random.Generator) -> Sequence[Case]:
    a, b = (float(x) for x in rng.normal(size=2))
    return [
        Case("be one half for equal rewards", (0.0, 0.0)),
        Case("be larger for the larger reward", (1.0, 0.0)),
        Case("depend on the difference alone", (a + 3, b + 3)),
        Case("be a number for rewards as large as they get", (5000.0, 4999.0)),
        Case("be a number for very negative rewards too", (-4000.0, -3998.5)),
    ]


def _preference_wrong(kind: str) -> Callable[[float, float], float]:
    def answer(r1: float, r2: float) -> float:
        d = r1 - r2
        with np.errstate(all="ignore"):
            found: dict[str, Callable[[], Any]] = {
                "the other one": lambda: np.exp(_log_sigmoid(-d)),
                "sum": lambda: np.exp(_log_sigmoid(r1 + r2)),
                "overflow": lambda: np.exp(r1) / (np.exp(r1) + np.exp(r2)),
                "Gaussian noise": lambda: 0.5 * (1 + math.erf(d / 2)),
                "no exponential": lambda: r1 / (r1 + r2) if r1 + r2 else 0.5,
                "certain": lambda: float(d > 0) + 0.5 * (d == 0),
                "tanh": lambda: (1 + np.tanh(d)) / 2,
            }
            return float(found[kind]())

    return answer


PREFERENCE = Exercise(
    id="6.1",
    title="Bradley and Terry's probability",
    text="P(1 ≻ 2) of two completions with rewards r1 and r2.",
    difficulty=1,
    hints=(
        (
            "The strengths that are compared are exp(r1) and exp(r2): divide numerator and denominator by "
            "one of them."
        ),
        "It is σ(r1 − r2) = 1/(1 + exp(r2 − r1)); np.logaddexp keeps it finite for any difference.",
    ),
    parameters=("r1", "r2"),
    cases=_preference_cases,
    reference=_preference,
    mistakes=_mistakes(_preference_wrong, {
        "the other one": "This is the probability that the second is preferred: check the sign.",
        "sum": "The difference r1 − r2 decides, not the sum: a constant added to both changes nothing.",
        "overflow": "exp(5000) is infinite, and ∞/∞ is not a number. Write it with the difference alone.",
        "Gaussian noise": "That is Thurstone's model; Gumbel noise gives the logistic function.",
        "no exponential": "Rewards may be negative: the strengths that are compared are exp(r).",
        "certain": "The noise lets the worse one win sometimes: a probability between 0 and 1 is asked for.",
        "tanh": "(1 + tanh d)/2 = σ(2d): the difference counts once, not twice.",
    }),
    tolerance=1e-7,
)  # fmt: skip

# -- 6.2


def _update(wins: Array, strengths: Array) -> Array:
    games = wins + wins.T
    return wins.sum(axis=1) / np.sum(games / (strengths[:, None] + strengths), axis=1)


def _update_cases(rng: np.random.Generator) -> Sequence[Case]:
    def drawn(n: int) -> tuple[Array, Array]:
        wins = rng.integers(1, 9, (n, n)).astype(float)
        np.fill_diagonal(wins, 0)
        return wins, rng.uniform(0.5, 2.0, n)

    even = np.array([[0.0, 2.0], [2.0, 0.0]])
    return [
        Case("leave two equal items as they are", (even, np.ones(2))),
        Case("raise who wins more", (np.array([[0.0, 3.0], [1.0, 0.0]]), np.ones(2))),
        Case("count every opponent", drawn(3)),
        Case("use the strengths so far", drawn(4)),
    ]


def _update_wrong(kind: str) -> Callable[[Array, Array], Array]:
    def answer(wins: Array, strengths: Array) -> Array:
        p, games = strengths, wins + wins.T
        pairs = p[:, None] + p
        if kind == "losses":
            return wins.sum(axis=0) / np.sum(games / pairs, axis=1)
        if kind == "wins alone in the sum":
            return wins.sum(axis=1) / np.sum(wins / pairs, axis=1)
        if kind == "product":
            return wins.sum(axis=1) / np.sum(games / (p[:, None] * p), axis=1)
        if kind == "share of wins":
            return wins.sum(axis=1) / games.sum(axis=1)
        if kind == "times the old strength":
            return p * wins.sum(axis=1) / np.sum(games / pairs, axis=1)
        if kind == "upside down":
            return np.sum(games / pairs, axis=1) / wins.sum(axis=1)
        return wins.sum(axis=1) / np.sum(games / (2 * p[:, None]), axis=1)  # the opponent's strength left out

    return answer


UPDATE = Exercise(
    id="6.2",
    title="One step of Zermelo's iteration",
    text="pᵢ ← Wᵢ / Σⱼ nᵢⱼ/(pᵢ + pⱼ): Wᵢ wins of i, nᵢⱼ games of i and j; wins[i, j]: i over j.",
    difficulty=2,
    hints=(
        "Build the table of games of every pair first: wins plus its transpose.",
        "The denominators are strengths[:, None] + strengths; the wins of i are the sum of row i.",
    ),
    parameters=("wins", "strengths"),
    cases=_update_cases,
    reference=_update,
    mistakes=_mistakes(_update_wrong, {
        "losses": "Wᵢ are the wins of i: a row of the table, not a column.",
        "wins alone in the sum": "nᵢⱼ counts all games of the pair, lost ones too.",
        "product": "The pair's strengths are added in the denominator: P(i beats j) = pᵢ/(pᵢ+pⱼ).",
        "share of wins": "A share of wins ignores who the opponents were.",
        "times the old strength": "The old strength stands in the sum's denominators alone.",
        "upside down": "Wins stand on top: who wins more gets stronger.",
        "no opponent": "Each term has the strengths of both: whom one beats has to count.",
    }),
    tolerance=1e-7,
)  # fmt: skip

# -- 6.3


def _reward_loss(chosen: Array, rejected: Array) -> float:
    return float(-np.mean(_log_sigmoid(chosen - rejected)))


def _reward_loss_cases(rng: np.random.Generator) -> Sequence[Case]:
    return [
        Case("be log 2 where rewards say nothing", (np.zeros(2), np.zeros(2))),
        Case("be smaller where the chosen one has more", (np.array([2.0]), np.array([0.5]))),
        Case("stay the same if all rewards move together", (np.array([7.0]), np.array([5.5]))),
        Case("average over the pairs", (rng.normal(size=3), rng.normal(size=3))),
        Case("compare within pairs alone", (rng.normal(size=4) * 3, rng.normal(size=4) * 3)),
        Case("be finite for a badly wrong pair", (np.array([-2000.0, 1.0]), np.array([2000.0, 0.0]))),
    ]


def _reward_loss_wrong(kind: str) -> Callable[[Array, Array], float]:
    def answer(chosen: Array, rejected: Array) -> float:
        d = chosen - rejected
        with np.errstate(all="ignore"):
            found: dict[str, Callable[[], Any]] = {
                "sign": lambda: -np.mean(_log_sigmoid(-d)),
                "sum of rewards": lambda: -np.mean(_log_sigmoid(chosen + rejected)),
                "overflow": lambda: -np.mean(np.log(1 / (1 + np.exp(-d)))),
                "sum": lambda: -np.sum(_log_sigmoid(d)),
                "mean first": lambda: -_log_sigmoid(np.mean(chosen) - np.mean(rejected)),
                "all against all": lambda: -np.mean(_log_sigmoid(chosen[:, None] - rejected)),
                "no logarithm": lambda: np.mean(np.exp(_log_sigmoid(-d))),
                "likelihood, not loss": lambda: np.mean(_log_sigmoid(d)),
            }
            return float(found[kind]())

    return answer


REWARD_LOSS = Exercise(
    id="6.3",
    title="The reward model's loss",
    text="Mean of −log σ(r_chosen − r_rejected) over pairs, finite for any rewards.",
    difficulty=2,
    hints=(
        "Take the difference within each pair, then the loss of each pair, then the mean.",
        "−log σ(d) = log(1 + exp(−d)), and np.logaddexp(0, −d) computes it without overflow.",
    ),
    parameters=("chosen", "rejected"),
    cases=_reward_loss_cases,
    reference=_reward_loss,
    mistakes=_mistakes(_reward_loss_wrong, {
        "sign": "Training with this would raise the rejected ones: which reward should be larger?",
        "sum of rewards": "The sigmoid is taken of the difference; a sum does not compare.",
        "overflow": "For a badly wrong pair σ rounds to 0 and its logarithm is −∞: use np.logaddexp(0, −d).",
        "sum": "The mean is asked for, so that the learning rate does not depend on the batch size.",
        "mean first": "Average the losses, not the rewards: the loss is taken pair by pair.",
        "all against all": "Only the two completions of one pair are compared: watch the shapes.",
        "no logarithm": "The negative *logarithm* of the likelihood is the loss.",
        "likelihood, not loss": "A loss falls as the fit gets better: the sign in front is missing.",
    }),
    tolerance=1e-7,
)  # fmt: skip

# -- 6.4


def _last_token(mask: Array) -> Array:
    columns = np.arange(mask.shape[1])
    return np.max(np.where(mask == 1, columns, -1), axis=1)


def _last_token_cases(rng: np.random.Generator) -> Sequence[Case]:
    def row(left: int, real: int, right: int) -> list[int]:
        return [0] * left + [1] * real + [0] * right

    a, b = (int(i) for i in rng.integers(1, 4, 2))
    return [
        Case("be the last place of a full row", (np.array([[1, 1, 1]]),)),
        Case("not be a pad token", (np.array([[1, 1, 0, 0]]),)),
        Case("work with padding on the left", (np.array([[0, 0, 1, 1]]),)),
        Case("be found for every row", (np.array([row(0, a, 5 - a), row(5 - b, b, 0), row(1, 2, 2)]),)),
    ]


LAST_TOKEN = Exercise(
    id="6.4",
    title="Where the reward is read",
    text="For each row of a mask (1: real, 0: padding, on either side) the place of the last real token.",
    difficulty=2,
    hints=(
        "Give every place its number and forget the numbers of padding.",
        "np.where(mask == 1, np.arange(columns), −1), and then the largest along each row.",
    ),
    parameters=("mask",),
    cases=_last_token_cases,
    reference=_last_token,
    mistakes=(
        Mistake("end of the row", lambda m: np.full(len(m), m.shape[1] - 1),
                "The end of the row may be padding: the reward would be read from a pad token."),
        Mistake("counting from the left", lambda m: m.sum(axis=1) - 1,
                "Counting real tokens finds the last one only where the padding is on the right."),
        Mistake("one too far", lambda m: m.sum(axis=1),
                "Places are counted from 0: the last of k tokens has place k − 1."),
        Mistake("first token", lambda m: m.argmax(axis=1),
                "argmax finds the first 1; the state of the *last* token has read all the others."),
        Mistake("first pad token", lambda m: np.where((m == 0).any(1), (m == 0).argmax(1), m.shape[1]),
                "That is where padding begins, not where the text ends."),
        Mistake("along the batch", lambda m: np.full(len(m), np.max(np.nonzero(m.any(axis=0)))),
                "Every row ends at a place of its own: look along each row."),
    ),
)  # fmt: skip

# -- 6.5


def _win_rate(a: Array, b: Array) -> float:
    gap = a[:, :, None] - b[:, None, :]
    return float(np.mean((gap > 0) + 0.5 * (gap == 0)))


def _win_rate_cases(rng: np.random.Generator) -> Sequence[Case]:
    def drawn(prompts: int, samples: int) -> tuple[Array, Array]:
        level = rng.normal(size=(prompts, 1)) * 10  # prompts differ more than completions do
        return level + rng.normal(size=(prompts, samples)), level + rng.normal(size=(prompts, samples))

    one = np.array([[1.0]])
    return [
        Case("be 1 where a is always better", (one, 0 * one)),
        Case("count a draw as half", (one, one)),
        Case(
            "compare completions of the same prompt alone",
            (np.array([[1.0], [9.0]]), np.array([[2.0], [8.0]])),
        ),
        Case(
            "compare every completion of a with every one of b",
            (np.array([[0.0, 0.0, 9.0]]), np.ones((1, 3))),
        ),
        Case("be right for many", drawn(4, 3)),
    ]


def _win_rate_wrong(kind: str) -> Callable[[Array, Array], float]:
    def answer(a: Array, b: Array) -> float:
        gap = a[:, :, None] - b[:, None, :]
        found: dict[str, Callable[[], Any]] = {
            "across prompts": lambda: np.mean(
                (a.reshape(-1, 1) > b.ravel()) + 0.5 * (a.reshape(-1, 1) == b.ravel())
            ),
            "mean over the wrong axis": lambda: np.mean(
                (a.mean(0) > b.mean(0)) + 0.5 * (a.mean(0) == b.mean(0))
            ),
            "means of prompts": lambda: np.mean((a.mean(1) > b.mean(1)) + 0.5 * (a.mean(1) == b.mean(1))),
            "draws lost": lambda: np.mean(gap > 0),
            "draws won": lambda: np.mean(gap >= 0),
            "b against a": lambda: np.mean((gap < 0) + 0.5 * (gap == 0)),
            "difference of means": lambda: a.mean() - b.mean(),
        }
        return float(found[kind]())

    return answer


WIN_RATE = Exercise(
    id="6.5",
    title="Win rate",
    text="Share of comparisons that a wins; a, b (prompts, completions) are rewards, draws count half.",
    difficulty=3,
    hints=(
        (
            "Compare every completion of a with every one of b, for one prompt at a time: which shape has "
            "that table?"
        ),
        (
            "a[:, :, None] − b[:, None, :] is (prompts, a's, b's): count 1 where it is above 0, ½ where it "
            "is 0, and take the mean."
        ),
    ),
    parameters=("a", "b"),
    cases=_win_rate_cases,
    reference=_win_rate,
    mistakes=_mistakes(_win_rate_wrong, {
        "across prompts": "Rewards of different prompts were never compared: their level is not known.",
        "mean over the wrong axis": "Axis 0 runs over prompts: a mean over it mixes what cannot be compared.",
        "means of prompts": "Compare completion by completion: a mean can be pulled up by a single one.",
        "draws lost": "Equal rewards count half.",
        "draws won": "Equal rewards count half, not as a win.",
        "b against a": "The share that *a* wins is asked for.",
        "difference of means": "A share between 0 and 1 is asked for; the scale of rewards is arbitrary.",
    }),
    tolerance=1e-9,
)  # fmt: skip

# -- 6.6


def _best_kl(n: int) -> float:
    return math.log(n) - (n - 1) / n


def _best_kl_cases(rng: np.random.Generator) -> Sequence[Case]:
    return [
        Case("be 0 for a single draw", (1,)),
        Case("be in nats", (2,)),
        Case("grow with the logarithm of n", (1000,)),
        Case("be right for any n", (int(rng.integers(3, 60)),)),
    ]


BEST_KL = Exercise(
    id="6.6",
    title="How far best-of-n moves",
    text="KL(best-of-n ‖ one draw) = log n − (n − 1)/n, in nats.",
    difficulty=1,
    hints=(
        "It is the formula as it stands; which logarithm counts in nats?",
        "math.log is the natural one; for n = 1 both terms are 0.",
    ),
    parameters=("n",),
    cases=_best_kl_cases,
    reference=_best_kl,
    mistakes=(
        Mistake("log n alone", lambda n: math.log(n), "log n is an upper bound: what is subtracted?"),
        Mistake("bits", lambda n: math.log2(n) - (n - 1) / n, "Nats are asked for: the natural logarithm."),
        Mistake("1/n", lambda n: math.log(n) - 1 / n, "(n − 1)/n = 1 − 1/n is subtracted."),
        Mistake("plus", lambda n: math.log(n) + (n - 1) / n, "The second term is subtracted."),
        Mistake("per draw", lambda n: (math.log(n) - (n - 1) / n) / n, "It is not shared out among draws."),
        Mistake("n for n − 1", lambda n: math.log(n) - n / (n + 1),
                "For n = 1 it has to be 0: nothing is chosen."),
    ),
)  # fmt: skip

# -- 6.7


def _dpo(policy_c: float, policy_r: float, reference_c: float, reference_r: float, beta: float) -> float:
    return float(-_log_sigmoid(beta * ((policy_c - reference_c) - (policy_r - reference_r))))


def _dpo_cases(rng: np.random.Generator) -> Sequence[Case]:
    def drawn() -> tuple[float, ...]:
        return tuple(float(x) for x in (*(-5 + 2 * rng.normal(size=4)), rng.uniform(0.1, 0.9)))

    return [
        Case("be log 2 where the policy is the reference", (-3.0, -1.0, -3.0, -1.0, 0.5)),
        Case("fall when the chosen one gets likelier", (-2.0, -4.0, -3.0, -4.0, 1.0)),
        Case("carry β", (-2.0, -5.0, -3.0, -4.0, 0.25)),
        Case("be right for any log-probabilities", drawn()),
        Case("be finite far away", (-9000.0, -10.0, -10.0, -10.0, 1.0)),
    ]


def _dpo_wrong(kind: str) -> Callable[..., float]:
    def answer(pc: float, pr: float, rc: float, rr: float, beta: float) -> float:
        gap = (pc - rc) - (pr - rr)
        with np.errstate(all="ignore"):
            found: dict[str, Callable[[], Any]] = {
                "no reference": lambda: -_log_sigmoid(beta * (pc - pr)),
                "no β": lambda: -_log_sigmoid(gap),
                "sign": lambda: -_log_sigmoid(-beta * gap),
                "sum": lambda: -_log_sigmoid(beta * ((pc - rc) + (pr - rr))),
                "β outside": lambda: -beta * _log_sigmoid(gap),
                "no logarithm": lambda: -np.exp(_log_sigmoid(beta * gap)),
                "overflow": lambda: -np.log(1 / (1 + np.exp(-beta * gap))),
            }
            return float(found[kind]())

    return answer


DPO = Exercise(
    id="6.7",
    title="DPO",
    text="−log σ(β[(log π_c − log ref_c) − (log π_r − log ref_r)]) from four log-probabilities.",
    difficulty=3,
    hints=(
        "The implicit reward is β(log π − log ref): once for the chosen one, once for the rejected one.",
        (
            "It is the loss of exercise 6.3 on those two rewards: −log σ of their difference, by "
            "np.logaddexp(0, −d)."
        ),
    ),
    parameters=("policy_c", "policy_r", "reference_c", "reference_r", "beta"),
    cases=_dpo_cases,
    reference=_dpo,
    mistakes=_mistakes(_dpo_wrong, {
        "no reference": "The implicit reward is β log(π/π_ref): where is the reference?",
        "no β": "β scales the implicit rewards, inside the sigmoid.",
        "sign": "The chosen one's implicit reward should become larger than the rejected one's.",
        "sum": "Rewards are compared by their difference.",
        "β outside": "β belongs to the reward, inside σ; outside it only scales the learning rate.",
        "no logarithm": "The negative logarithm of the probability is the loss.",
        "overflow": "Far away σ rounds to 0, and its logarithm is −∞: use np.logaddexp.",
    }),
    tolerance=1e-7,
)  # fmt: skip

EXERCISES = (PREFERENCE, UPDATE, REWARD_LOSS, LAST_TOKEN, WIN_RATE, BEST_KL, DPO)
