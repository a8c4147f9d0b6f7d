"""Chapter 5, scaling laws: power laws, counting, the optimum, a profile's vertex, the fit, test time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course_lib.exercises.record import Case, Exercise, Mistake

Array = np.ndarray


def _mistakes(wrong: Callable[[str], Callable[..., Any]], hints: dict[str, str]) -> tuple[Mistake, ...]:
    return tuple(Mistake(kind, wrong(kind), hint) for kind, hint in hints.items())


# -- 5.1


def _power_law(X: Array, L: Array) -> tuple[float, float]:
    slope, intercept = np.polyfit(np.log(X), np.log(L), 1)
    return float(-slope), float(np.exp(-intercept / slope))


def _power_law_cases(rng: np.random.Generator) -> Sequence[Case]:
    def exact(alpha: float, scale: float, count: int) -> tuple[Array, Array]:
        X = np.geomspace(1e2, 1e6, count)
        return X, (scale / X) ** alpha

    alpha, scale = float(rng.uniform(0.05, 0.4)), float(10 ** rng.uniform(3, 7))
    X, L = exact(alpha, scale, 6)
    return [
        Case("find the exponent", exact(0.5, 1.0, 2)),
        Case("find the scale", exact(0.5, 100.0, 3)),
        Case("find both for any law", exact(alpha, scale, 5)),
        Case(
            "take the line of least squares where points scatter", (X, L * np.exp(0.05 * rng.normal(size=6)))
        ),
    ]


def _power_law_wrong(kind: str) -> Callable[[Array, Array], tuple[float, float]]:
    def answer(X: Array, L: Array) -> tuple[float, float]:
        slope, intercept = (float(v) for v in np.polyfit(np.log(X), np.log(L), 1))
        ten = float(np.polyfit(np.log10(X), np.log10(L), 1)[1])
        if kind == "sign":
            return slope, math.exp(-intercept / slope)
        if kind == "intercept alone":
            return -slope, math.exp(intercept)
        if kind == "log base":
            return -slope, math.exp(-ten / slope)
        if kind == "turned round":
            back, start = (float(v) for v in np.polyfit(np.log(L), np.log(X), 1))
            return -back, math.exp(start)
        if kind == "half logarithmic":
            line, start = (float(v) for v in np.polyfit(np.log(X), L, 1))
            return -line, math.exp(-start / line)
        return -slope, -intercept / slope  # the logarithm of the scale

    return answer


POWER_LAW = Exercise(
    id="5.1",
    title="Reading a power law",
    text="α and X_c of L = (X_c / X)^α, by a straight line of least squares in double logarithmic axes.",
    difficulty=2,
    hints=(
        "Take the logarithm of both sides: which straight line is it, in log X?",
        "np.polyfit(np.log(X), np.log(L), 1) gives slope −α and intercept α log X_c: solve for both.",
    ),
    parameters=("X", "L"),
    cases=_power_law_cases,
    reference=_power_law,
    mistakes=_mistakes(_power_law_wrong, {
        "sign": "The loss falls: the line's slope is −α.",
        "intercept alone": "log L = α log X_c − α log X: the intercept is α log X_c, not log X_c.",
        "log base": "One base throughout: an intercept in log₁₀ goes with powers of 10, not with exp.",
        "turned round": "The loss is fitted as a function of X, not X as a function of the loss.",
        "half logarithmic": "Both axes are logarithmic: take the logarithm of the loss too.",
        "logarithm of the scale": "That is log X_c; X_c itself is asked for.",
    }),
    returns=("alpha", "X_c"),
    tolerance=1e-7,
)  # fmt: skip

# -- 5.2


def _ratio(C: float, N: float) -> float:
    return C / (6 * N**2)


def _ratio_cases(rng: np.random.Generator) -> Sequence[Case]:
    return [
        Case("pay six FLOP for a parameter and a token", (6.0, 1.0)),
        Case("fall with the square of the size", (600.0, 2.0)),
        Case("be Chinchilla's about 20", (5.76e23, 67e9)),
        Case("be right at any scale", (float(10 ** rng.uniform(17, 25)), float(10 ** rng.uniform(7, 11)))),
    ]


RATIO = Exercise(
    id="5.2",
    title="Tokens per parameter",
    text="D / N for a model of N parameters trained with C FLOP, where C = 6ND.",
    difficulty=1,
    hints=(
        "C = 6ND: which of the three is not known yet?",
        "Solve for D, then divide by N once more.",
    ),
    parameters=("C", "N"),
    cases=_ratio_cases,
    reference=_ratio,
    mistakes=(
        Mistake("tokens", lambda C, N: C / (6 * N), "That is D; tokens *per parameter* are asked for."),
        Mistake("forward alone", lambda C, N: C / (2 * N**2),
                "2ND is the forward pass; the backward pass costs twice as much again."),
        Mistake("no six", lambda C, N: C / N**2, "A token costs 6 FLOP a parameter: 2 forward, 4 backward."),
        Mistake("upside down", lambda C, N: 6 * N**2 / C, "Tokens per parameter, not parameters per token."),
        Mistake("six above", lambda C, N: 6 * C / N**2, "C = 6ND: to get D, divide by the 6."),
        Mistake("square root", lambda C, N: math.sqrt(C / 6) / N,
                "√(C/6) would be D if D were equal to N; here N is given."),
    ),
)  # fmt: skip

# -- 5.3


def _counts(hidden: int, layers: int, intermediate: int, vocab: int) -> tuple[int, int]:
    blocks = layers * (4 * hidden**2 + 3 * hidden * intermediate)
    return blocks, blocks + vocab * hidden


def _counts_cases(rng: np.random.Generator) -> Sequence[Case]:
    h, n, i, v = (int(rng.integers(low, high)) for low, high in ((8, 64), (2, 9), (70, 200), (300, 999)))
    return [
        Case("count the four maps of attention", (1, 1, 0, 0)),
        Case("count the three maps of a gated MLP", (1, 1, 1, 0)),
        Case("count every layer", (2, 3, 4, 0)),
        Case("add the embedding to the total alone, once", (2, 1, 4, 10)),
        Case("be right for any size", (h, n, i, v)),
    ]


def _counts_wrong(kind: str) -> Callable[..., tuple[int, int]]:
    def answer(hidden: int, layers: int, intermediate: int, vocab: int) -> tuple[int, int]:
        attention = {"three of attention": 3}.get(kind, 4) * hidden**2
        mlp = {"plain MLP": 2}.get(kind, 3) * hidden * intermediate
        blocks = attention + layers * mlp if kind == "one attention" else layers * (attention + mlp)
        if kind == "12 layers h²":
            blocks = 12 * layers * hidden**2
        table = vocab * hidden
        if kind == "embedding in both":
            return blocks + table, blocks + table
        return blocks, blocks + (2 if kind == "embedding twice" else 1) * table

    return answer


COUNTS = Exercise(
    id="5.3",
    title="Two ways to count parameters",
    text="Parameters without and with the embedding (tied to the head), gated MLPs, norms left out.",
    difficulty=1,
    hints=(
        (
            "Count one layer: attention has square maps of width `hidden`, the gated MLP has three "
            "rectangular ones."
        ),
        (
            "A layer has 4·hidden² + 3·hidden·intermediate; the embedding, vocab·hidden, belongs to the "
            "second number alone."
        ),
    ),
    parameters=("hidden", "layers", "intermediate", "vocab"),
    cases=_counts_cases,
    reference=_counts,
    mistakes=_mistakes(_counts_wrong, {
        "embedding in both": "Kaplan's N leaves the embedding out: that is the first number.",
        "embedding twice": "Tied to the head, the embedding is one table: it counts once.",
        "plain MLP": "A gated MLP has three maps: gate, up and down.",
        "three of attention": "Attention has four maps: queries, keys, values and output.",
        "12 layers h²": "12·L·h² holds for plain MLPs of width 4h; here the width is given.",
        "one attention": "Every layer has an attention of its own.",
    }),
    returns=("without embedding", "with embedding"),
)  # fmt: skip

# -- 5.4


def _vertex(N: Array, L: Array) -> float:
    a, b, _ = np.polyfit(np.log(N), L, 2)
    return float(np.exp(-b / (2 * a)))


def _vertex_cases(rng: np.random.Generator) -> Sequence[Case]:
    def bowl(lowest: float, count: int, noise: float = 0.0) -> tuple[Array, Array]:
        N = np.geomspace(lowest / 3.5, lowest * 4, count)
        return N, 2.0 + 0.05 * np.log(N / lowest) ** 2 + noise * rng.normal(size=count)

    return [
        Case("find the bottom of an exact parabola in log N", bowl(100.0, 3)),
        Case("not depend on which sizes were run", bowl(float(rng.uniform(1e3, 1e4)), 4)),
        Case("use all points where losses scatter", bowl(float(rng.uniform(1e5, 1e6)), 6, 0.004)),
    ]


def _vertex_wrong(kind: str) -> Callable[[Array, Array], float]:
    def answer(N: Array, L: Array) -> float:
        a, b, _ = (float(v) for v in np.polyfit(np.log(N), L, 2))
        if kind == "not logarithmic":
            a, b, _ = (float(v) for v in np.polyfit(N, L, 2))
            return -b / (2 * a)
        if kind == "log base":
            a, b, _ = (float(v) for v in np.polyfit(np.log10(N), L, 2))
            return math.exp(-b / (2 * a))
        if kind == "without the 2":
            return math.exp(min(-b / a, 600))
        if kind == "sign":
            return math.exp(b / (2 * a))
        if kind == "best run":
            return float(N[np.argmin(L)])
        return -b / (2 * a)  # the logarithm

    return answer


VERTEX = Exercise(
    id="5.4",
    title="The bottom of an isoFLOP profile",
    text="N at the lowest point of the parabola of least squares through (log N, L), runs of one budget.",
    difficulty=2,
    hints=(
        "Fit a parabola in log N, find where its slope is zero, and go back from log N to N.",
        (
            "np.polyfit(np.log(N), L, 2) gives a, b, c; the bottom lies at −b/(2a); np.exp undoes the "
            "logarithm."
        ),
    ),
    parameters=("N", "L"),
    cases=_vertex_cases,
    reference=_vertex,
    mistakes=_mistakes(_vertex_wrong, {
        "not logarithmic": "The profile is a parabola in log N, not in N.",
        "log base": "If you fit in log₁₀ N, go back with a power of 10, not with exp.",
        "without the 2": "The vertex of ax² + bx + c lies at −b/2a.",
        "sign": "The vertex of ax² + bx + c lies at *minus* b/2a.",
        "best run": "That is the best run; the optimum lies between the sizes that happened to be run.",
        "logarithm": "That is log N: go back to N.",
    }),
    tolerance=1e-6,
)  # fmt: skip

# -- 5.5


def _optimum(C: float, A: float, B: float, alpha: float, beta: float) -> tuple[float, float]:
    N = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (C / 6) ** (beta / (alpha + beta))
    return N, C / (6 * N)


def _optimum_cases(rng: np.random.Generator) -> Sequence[Case]:
    drawn = tuple(float(v) for v in (10 ** rng.uniform(18, 25), rng.uniform(300, 600), rng.uniform(300, 3000),
                                     rng.uniform(0.3, 0.4), rng.uniform(0.25, 0.3)))  # fmt: skip
    return [
        Case("spend a budget evenly on two equal terms", (600.0, 1.0, 1.0, 0.5, 0.5)),
        Case("give more to the term with the larger factor", (600.0, 4.0, 1.0, 0.5, 0.5)),
        Case("grow by the other term's exponent", (6e6, 1.0, 1.0, 0.4, 0.2)),
        Case("be right for any law", drawn),
    ]


def _optimum_wrong(kind: str) -> Callable[..., tuple[float, float]]:
    def answer(C: float, A: float, B: float, alpha: float, beta: float) -> tuple[float, float]:
        total = alpha + beta
        G = (alpha * A / (beta * B)) ** (1 / total)
        if kind == "no exponents in G":
            G = (A / B) ** (1 / total)
        if kind == "no root in G":
            G = alpha * A / (beta * B)
        budget = C if kind == "no six" else C / 6
        power = alpha / total if kind == "own exponent" else beta / total
        N = budget**power * (1 / G if kind == "G upside down" else G)
        if kind == "D without the six":
            return N, C / N
        return (C / (6 * N), N) if kind == "N and D swapped" else (N, budget / N)

    return answer


OPTIMUM = Exercise(
    id="5.5",
    title="The best use of a budget",
    text="N* and D* that minimise A/N^α + B/D^β where 6ND = C.",
    difficulty=3,
    hints=(
        "Put D = C/(6N) into the loss and set its derivative in N to zero.",
        "αA/N^α = βB/D^β with N·D = C/6: N is (αA/(βB))^(1/(α+β)) times (C/6)^(β/(α+β)), and D = C/(6N).",
    ),
    parameters=("C", "A", "B", "alpha", "beta"),
    cases=_optimum_cases,
    reference=_optimum,
    mistakes=_mistakes(_optimum_wrong, {
        "own exponent": "N* grows with β/(α+β), the other term's exponent.",
        "no six": "The budget pays for 6ND: it is C/6 that is split into N and D.",
        "G upside down": "A large A makes parameters worth more: N* grows with A.",
        "no exponents in G": "Setting the derivative to zero brings α and β down: αA/N^α = βB/D^β.",
        "no root in G": "Solving αA/N^α = βB/D^β for N takes a root of order α + β.",
        "N and D swapped": "The parameters come first, the tokens second.",
        "D without the six": "D = C/(6N).",
    }),
    returns=("N", "D"),
    tolerance=1e-7,
)  # fmt: skip

# -- 5.6


def _huber(residuals: Array, delta: float) -> float:
    size = np.abs(residuals)
    return float(np.sum(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))))


def _huber_cases(rng: np.random.Generator) -> Sequence[Case]:
    return [
        Case("be half the square of a small residual", (np.array([0.5]), 1.0)),
        Case("be linear for a large one, without a jump", (np.array([3.0, -3.0]), 1.0)),
        Case("change over at δ", (np.array([0.05, 0.5]), 0.1)),
        Case("be a sum over the observations", (rng.normal(size=6), 0.7)),
    ]


def _huber_wrong(kind: str) -> Callable[[Array, float], float]:
    def answer(residuals: Array, delta: float) -> float:
        r = residuals
        size = np.abs(r)
        small, large = size**2 / 2, delta * (size - delta / 2)
        if kind == "no half":
            small = size**2
        if kind == "a jump":
            large = delta * size
        if kind == "slope 1":
            large = size - delta / 2
        if kind == "signed":
            size = r
        each = np.where(size <= delta, small, large)
        if kind == "squares alone":
            each = small
        return float(np.mean(each) if kind == "mean" else np.sum(each))

    return answer


HUBER = Exercise(
    id="5.6",
    title="Huber's loss",
    text="Sum over residuals r of r²/2 where |r| ≤ δ, and δ(|r| − δ/2) beyond.",
    difficulty=1,
    hints=(
        "Two formulas, chosen entry by entry by the size of the residual: np.where.",
        "Take |r| first; where |r| ≤ δ it is r²/2, elsewhere δ(|r| − δ/2); then add up.",
    ),
    parameters=("residuals", "delta"),
    cases=_huber_cases,
    reference=_huber,
    mistakes=_mistakes(_huber_wrong, {
        "mean": "The sum is asked for: a mean of tiny numbers makes an optimiser stop at once.",
        "no half": "Inside δ it is r²/2: with r² the two pieces would not meet.",
        "a jump": "Beyond δ it is δ(|r| − δ/2), so that the pieces meet at δ.",
        "slope 1": "Beyond δ the slope is δ, as it is at δ: δ(|r| − δ/2).",
        "signed": "Large negative residuals are outliers too: compare |r| with δ.",
        "squares alone": "That is least squares: outliers would decide.",
    }),
    tolerance=1e-9,
)  # fmt: skip

# -- 5.7


def _pass_at_k(n: int, right: int, k: int) -> float:
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def _pass_at_k_cases(rng: np.random.Generator) -> Sequence[Case]:
    n = int(rng.integers(20, 40))
    return [
        Case("be the share of right ones for k = 1", (4, 1, 1)),
        Case("be 0 where none is right", (5, 0, 3)),
        Case("be 1 where too few are wrong to fill k", (4, 3, 2)),
        Case("draw without putting back", (4, 2, 2)),
        Case("be right for many", (n, int(rng.integers(2, 6)), int(rng.integers(3, 8)))),
    ]


PASS_AT_K = Exercise(
    id="5.7",
    title="Right at least once in k",
    text="Of n answers `right` are right: probability that k of them, drawn without replacement, hold one.",
    difficulty=2,
    hints=(
        "It is easier to count the draws that hold no right answer at all.",
        "math.comb(n − right, k) of the math.comb(n, k) draws hold none: what is left of 1?",
    ),
    parameters=("n", "right", "k"),
    cases=_pass_at_k_cases,
    reference=_pass_at_k,
    mistakes=(
        Mistake("with replacement", lambda n, c, k: 1 - (1 - c / n) ** k,
                "That puts each answer back. It is biased: k of the n answers are drawn, each at most once."),
        Mistake("times k", lambda n, c, k: min(1.0, k * c / n), "Chances of overlapping events do not add."),
        Mistake("all right", lambda n, c, k: math.comb(c, k) / math.comb(n, k),
                "That is the probability that all k are right; at least one is asked for."),
        Mistake("none right", lambda n, c, k: math.comb(n - c, k) / math.comb(n, k),
                "That is the probability that none is right: take what is left of 1."),
        Mistake("exactly one", lambda n, c, k: c * math.comb(n - c, k - 1) / math.comb(n, k),
                "Exactly one is too narrow: two right ones are fine as well."),
        Mistake("k = 1", lambda n, c, k: c / n, "That is one draw; with more draws the chance rises."),
    ),
    tolerance=1e-9,
)  # fmt: skip

EXERCISES = (POWER_LAW, RATIO, COUNTS, VERTEX, OPTIMUM, HUBER, PASS_AT_K)
