"""Chapter 2, LoRA: what a low rank leaves out, both passes, what the loss sees, two adapters in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course_lib.exercises.record import Case, Exercise, Mistake

Array = np.ndarray
_IGNORED = -100


def _mistakes(wrong: Callable[[str], Callable[..., Any]], hints: dict[str, str]) -> tuple[Mistake, ...]:
    return tuple(Mistake(kind, wrong(kind), hint) for kind, hint in hints.items())


# -- 2.1


def _rank_error(delta: Array, r: int) -> float:
    values = np.linalg.svd(delta, compute_uv=False)
    return float(np.sqrt(np.sum(values[r:] ** 2) / np.sum(values**2)))


def _rank_error_cases(rng: np.random.Generator) -> Sequence[Case]:
    return [
        Case("be the whole of ΔW at rank 0", (np.diag([3.0, 2.0]), 0)),
        Case("be the root of what squares leave out", (np.diag([3.0, 2.0, 1.0]), 1)),
        Case("be measured against ΔW's own norm", (np.diag([30.0, 40.0]), 1)),
        Case("work for any matrix", (rng.normal(size=(4, 3)), 2)),
        Case("work for a wide matrix", (rng.normal(size=(3, 6)), 1)),
    ]


def _rank_error_wrong(kind: str) -> Callable[..., float]:
    def answer(delta: Array, r: int) -> float:
        s = np.linalg.svd(delta, compute_uv=False)
        square, total = np.sum(s[r:] ** 2), np.sum(s**2)
        found = {
            "no root": square / total,
            "kept instead of lost": np.sqrt(np.sum(s[:r] ** 2) / total),
            "no squares": np.sum(s[r:]) / np.sum(s),
            "not relative": np.sqrt(square),
            "spectral norm": s[r] / s[0],
            "one too many": np.sqrt(np.sum(s[r + 1 :] ** 2) / total),
        }[kind]
        return float(found)

    return answer


RANK_ERROR = Exercise(
    id="2.1",
    title="How much a low rank leaves out",
    text="‖ΔW − best ΔW of rank r‖ / ‖ΔW‖ in the Frobenius norm.",
    difficulty=2,
    hints=(
        "By Eckart, Young and Mirsky the best approximation keeps the r largest singular values.",
        (
            "The squared Frobenius norm is the sum of squared singular values: those from index r on, over "
            "all, under one root."
        ),
    ),
    parameters=("delta", "r"),
    cases=_rank_error_cases,
    reference=_rank_error,
    mistakes=_mistakes(_rank_error_wrong, {
        "no root": "A norm is the root of the sum of squares.",
        "kept instead of lost": "That is the part that rank r keeps; asked for is what it leaves out.",
        "no squares": "The Frobenius norm adds the squares of the singular values.",
        "not relative": "Divide by ‖ΔW‖, so that scaling ΔW changes nothing.",
        "spectral norm": "That is the spectral norm's error, the largest value left out.",
        "one too many": "Rank r keeps r singular values: the first one left out has index r.",
    }),
    tolerance=1e-7,
)  # fmt: skip

# -- 2.2


def _forward(x: Array, W: Array, A: Array, B: Array, alpha: float) -> Array:
    return x @ W.T + alpha / A.shape[1] * (x @ B) @ A.T


def _drawn(rng: np.random.Generator, tokens: int, d_out: int, d_in: int, r: int) -> tuple[Array, ...]:
    shapes = ((tokens, d_in), (d_out, d_in), (d_out, r), (d_in, r))
    return tuple(rng.normal(size=shape) for shape in shapes)


def _by_hand(rng: np.random.Generator, tokens: int, d_out: int, d_in: int, r: int) -> tuple[Array, ...]:
    """As ``_drawn``, in small whole numbers that can be followed on paper."""
    return tuple(np.ceil(abs(array) * 3) for array in _drawn(rng, tokens, d_out, d_in, r))


def _forward_cases(rng: np.random.Generator) -> Sequence[Case]:
    x, W, A, B = _by_hand(rng, 1, 2, 2, 1)
    return [
        Case("be W x where A is zero", (x, W, 0 * A, B, 1.0)),
        Case("add A Bᵀ x", (x, W, A, B, 1.0)),
        Case("scale the adapter alone, by α / r", (*_by_hand(rng, 1, 2, 2, 2), 6.0)),
        Case("work for any shape", (*_drawn(rng, 3, 4, 5, 2), 4.0)),
        Case("work for a higher rank", (*_drawn(rng, 2, 6, 3, 3), 1.5)),
    ]


def _forward_wrong(kind: str) -> Callable[..., Array]:
    def answer(x: Array, W: Array, A: Array, B: Array, alpha: float) -> Array:
        r = A.shape[1]
        scale = {
            "α alone": alpha, "α times r": alpha * r, "no scale": 1.0, "rank-stabilised": alpha / np.sqrt(r),
        }.get(kind, alpha / r)  # fmt: skip
        base, low = x @ W.T, (x @ B) @ A.T
        if kind == "the adapter alone":
            return scale * low
        if kind == "everything scaled":
            return scale * (base + low)
        if kind == "W not transposed" and W.shape[0] == W.shape[1]:
            base = x @ W
        return base - scale * low if kind == "minus" else base + scale * low

    return answer


FORWARD = Exercise(
    id="2.2",
    title="LoRA's forward pass",
    text="The rows of x (tokens, d_in) through W + (α/r) A Bᵀ, without building that matrix.",
    difficulty=2,
    hints=(
        "Two paths that add up: x through W, and x through B, then A. Follow the shapes of one token.",
        (
            "With tokens in rows a map M acts as x @ M.T: first x @ B, (tokens, r), then times A's "
            "transpose and α / r."
        ),
    ),
    parameters=("x", "W", "A", "B", "alpha"),
    cases=_forward_cases,
    reference=_forward,
    mistakes=_mistakes(_forward_wrong, {
        "α alone": "The scale is α / r, so that a larger rank does not mean a larger step.",
        "α times r": "The scale is α divided by the rank.",
        "no scale": "The adapter's share is multiplied by α / r.",
        "rank-stabilised": "That is the rank-stabilised scale α/√r; here the original α/r is asked for.",
        "the adapter alone": "The frozen W is still there: its output is added.",
        "everything scaled": "Only the adapter is scaled, not the frozen W.",
        "W not transposed": "x holds tokens in rows: each row is multiplied by Wᵀ from the right.",
        "minus": "The adapter's share is added.",
    }),
    tolerance=1e-7,
)  # fmt: skip

# -- 2.3


def _gradients(x: Array, g: Array, A: Array, B: Array, scale: float) -> tuple[Array, Array]:
    return scale * g.T @ (x @ B), scale * x.T @ (g @ A)


def _gradients_cases(rng: np.random.Generator) -> Sequence[Case]:
    def given(draw: Callable[..., tuple[Array, ...]], *sizes: int) -> tuple[Array, ...]:
        x, W, A, B = draw(rng, *sizes)
        return x, x @ W.T, A, B

    x, _, A, B = _by_hand(rng, 1, 2, 3, 1)
    g = np.array([[1.0, -2.0]])
    return [
        Case("give A a gradient and B none where A is zero", (x, g, 0 * A, B, 1.0)),
        Case("be right for one token", (x, g, A, B, 1.0)),
        Case("add up over the tokens", (*given(_by_hand, 2, 2, 2, 1), 1.0)),
        Case("carry the scale", (*given(_drawn, 2, 3, 4, 2), 0.5)),
    ]


def _gradients_wrong(kind: str) -> Callable[..., tuple[Array, Array]]:
    def answer(x: Array, g: Array, A: Array, B: Array, scale: float) -> tuple[Array, Array]:
        dA, dB = scale * g.T @ (x @ B), scale * x.T @ (g @ A)
        return {
            "no scale": (dA / scale, dB / scale),
            "mean over tokens": (dA / len(x), dB / len(x)),
            "swapped": (dB, dA),
            "transposed": (dA.T, dB.T),
            "the other factor left out": (
                scale * g.T @ (x @ np.ones_like(B)),
                scale * x.T @ (g @ np.ones_like(A)),
            ),
            "downhill": (-dA, -dB),
        }[kind]

    return answer


GRADIENTS = Exercise(
    id="2.3",
    title="LoRA's gradients",
    text="Gradients of the loss in A and B, where y = W x + s A Bᵀ x and g is its gradient in y.",
    difficulty=3,
    hints=(
        "Write u = Bᵀx for the inner product, so y = W x + s A u. What is the gradient in A, if u is given?",
        (
            "With tokens in rows, A gets s gᵀ(x B) and B gets s xᵀ(g A): check that the shapes are those "
            "of A and B."
        ),
    ),
    parameters=("x", "g", "A", "B", "scale"),
    cases=_gradients_cases,
    reference=_gradients,
    mistakes=_mistakes(_gradients_wrong, {
        "no scale": "y contains s A Bᵀ x: the chain rule keeps the factor s.",
        "mean over tokens": "The gradient adds over tokens; the loss's own mean is in g already.",
        "swapped": "A stands at the output, so its gradient is built from g and the inner product x B.",
        "transposed": "A gradient has the shape of what it belongs to.",
        "the other factor left out": "A factor's gradient contains the other factor.",
        "downhill": "The gradient itself is asked for, not the step against it.",
    }),
    returns=("the gradient of A", "the gradient of B"),
    tolerance=1e-7,
)  # fmt: skip

# -- 2.4


def _targets(prompt: Sequence[int], completion: Sequence[int]) -> list[int]:
    return [_IGNORED] * (len(prompt) - 1) + list(completion)


def _targets_cases(rng: np.random.Generator) -> Sequence[Case]:
    def drawn(prompt: int, completion: int) -> tuple[list[int], list[int]]:
        return [int(i) for i in rng.integers(10, 99, prompt)], [
            int(i) for i in rng.integers(10, 99, completion)
        ]

    return [
        Case("let the prompt's last token predict the completion's first", ([5], [7])),
        Case("leave the prompt out of the loss", ([5, 6, 8], [7])),
        Case("have one target for every input token", ([5, 6], [7, 9, 2])),
        Case("keep the completion whole", drawn(4, 5)),
    ]


TARGETS = Exercise(
    id="2.4",
    title="The loss on the completion alone",
    text="What each of the inputs (prompt + completion)[:-1] shall predict; -100 where the loss looks away.",
    difficulty=1,
    hints=(
        "Write the inputs (prompt + completion)[:-1] in one line and below each what comes next.",
        (
            "The prompt's last token predicts the completion's first: all prompt tokens but the last one "
            "look away."
        ),
    ),
    parameters=("prompt", "completion"),
    cases=_targets_cases,
    reference=_targets,
    mistakes=(
        Mistake("one too many", lambda p, c: [_IGNORED] * len(p) + list(c),
                "Inputs end one token early and targets begin one token late: count the -100 again."),
        Mistake("not shifted", lambda p, c: [_IGNORED] * len(p) + list(c)[:-1],
                "Each position predicts the *next* token: the prompt's last one the completion's first."),
        Mistake("prompt learned too", lambda p, c: list(p)[1:] + list(c),
                "The loss on the prompt teaches to write prompts; only the completion counts."),
        Mistake("zeros", lambda p, c: [0] * (len(p) - 1) + list(c),
                "0 is a token like any other; -100 is what the loss ignores."),
        Mistake("completion alone", lambda p, c: list(c),
                "There is a target for every input token, the prompt's too (ignored)."),
        Mistake("last token only", lambda p, c: [_IGNORED] * (len(p) + len(c) - 2) + list(c)[-1:],
                "Every token of the completion is learned, not only its last."),
    ),
)  # fmt: skip

# -- 2.5


def _both(A1: Array, B1: Array, A2: Array, B2: Array) -> tuple[Array, Array]:
    return np.hstack([A1, A2]), np.hstack([B1, B2])


def _both_cases(rng: np.random.Generator) -> Sequence[Case]:
    def drawn(d_out: int, d_in: int, r1: int, r2: int) -> tuple[Array, ...]:
        shapes = (d_out, r1), (d_in, r1), (d_out, r2), (d_in, r2)
        return tuple(np.round(rng.normal(size=shape), 1) for shape in shapes)

    return [
        Case("add two of rank 1", drawn(2, 2, 1, 1)),
        Case("have the rank of both together", drawn(4, 3, 2, 2)),
        Case("work for two ranks", drawn(3, 5, 1, 2)),
    ]


BOTH = Exercise(
    id="2.5",
    title="Two adapters in one",
    text="A and B of one adapter with A Bᵀ = A₁B₁ᵀ + A₂B₂ᵀ: the columns of the first, then of the second.",
    difficulty=2,
    hints=(
        "A product A Bᵀ is a sum over columns: one column of A times the same column of B.",
        "Put the columns of both side by side, in the same order in A and in B: np.hstack does that.",
    ),
    parameters=("A1", "B1", "A2", "B2"),
    cases=_both_cases,
    reference=_both,
    mistakes=(
        Mistake("factors added", lambda A1, B1, A2, B2: (A1 + A2, B1 + B2) if A1.shape == A2.shape
                else (A1 + A2[:, :1], B1 + B2[:, :1]),
                "(A₁+A₂)(B₁+B₂)ᵀ contains A₁B₂ᵀ and A₂B₁ᵀ, which nobody trained."),
        Mistake("stacked downwards", lambda A1, B1, A2, B2: (np.vstack([A1, A2]) if A1.shape[1] == A2.shape[1]
                else np.hstack([A1, A2]).T, np.hstack([B1, B2])),
                "A has d_out rows, whatever the rank: put the columns side by side."),
        Mistake("crossed", lambda A1, B1, A2, B2: (np.hstack([A1, A2]), np.hstack([B2, B1])),
                "Each column of A belongs to the column of B at the same place: keep one order in both."),
        Mistake("second first", lambda A1, B1, A2, B2: (np.hstack([A2, A1]), np.hstack([B2, B1])),
                "The product is right; the first adapter's columns are asked for first."),
        Mistake("halved", lambda A1, B1, A2, B2: (np.hstack([A1, A2]) / 2, np.hstack([B1, B2])),
                "The sum of both is asked for, not their mean."),
        Mistake("one forgotten", lambda A1, B1, A2, B2: (A1, B1),
                "The second adapter is missing."),
        Mistake("ΔW itself", lambda A1, B1, A2, B2: (A1 @ B1.T + A2 @ B2.T, np.eye(len(B1))),
                "That is the whole ΔW (d_out × d_in): keep it in factors."),
    ),
    returns=("A", "B"),
)  # fmt: skip

EXERCISES = (RANK_ERROR, FORWARD, GRADIENTS, TARGETS, BOTH)
