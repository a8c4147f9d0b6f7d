"""Chapter 3, adapters from the singular value decomposition: what stands between U and V, and where to
start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course_lib.exercises.record import Case, Exercise, Mistake

Array = np.ndarray


def _mistakes(wrong: Callable[[str], Callable[..., Any]], hints: dict[str, str]) -> tuple[Mistake, ...]:
    return tuple(Mistake(kind, wrong(kind), hint) for kind, hint in hints.items())


def _orthonormal(rng: np.random.Generator, rows: int, columns: int) -> Array:
    return np.linalg.qr(rng.normal(size=(rows, columns)))[0]


# -- 3.1


def _svf(W: Array, z: Array) -> Array:
    U, S, Vt = np.linalg.svd(W, full_matrices=False)
    return (U * (S * z)) @ Vt


def _svf_cases(rng: np.random.Generator) -> Sequence[Case]:
    return [
        Case("leave W as it is where every factor is 1", (np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones(2))),
        Case("scale the singular values", (np.diag([3.0, 2.0]), np.array([0.5, 2.0]))),
        Case(
            "count the singular values from the largest",
            (np.diag([4.0, 2.0, 1.0]), np.array([1.0, 1.0, 3.0])),
        ),
        Case("work for a wide matrix", (rng.normal(size=(2, 4)), rng.uniform(0.5, 1.5, 2))),
        Case("work for a tall matrix", (rng.normal(size=(5, 3)), rng.uniform(0.5, 1.5, 3))),
    ]


def _svf_wrong(kind: str) -> Callable[..., Array]:
    def answer(W: Array, z: Array) -> Array:
        U, S, Vt = np.linalg.svd(W, full_matrices=False)
        middle = {
            "the change alone": S * (z - 1), "no singular values": z, "added": S + z - 1,
            "reversed": S * z[::-1], "squared": S * z**2, "W scaled as well": S * (1 + z),
        }.get(kind, S * z)  # fmt: skip
        return (U * middle) @ (
            Vt.T if kind == "V transposed once too often" and len(Vt) == Vt.shape[1] else Vt
        )

    return answer


SVF = Exercise(
    id="3.1",
    title="Singular value fine-tuning",
    text="W' = U S Z Vᵀ with the diagonal z of Z, one factor for every singular value, the largest first.",
    difficulty=2,
    hints=(
        "Take W apart with np.linalg.svd, change only what stands in the middle, put it together again.",
        (
            "NumPy gives U, the singular values and Vᵀ (full_matrices=False): multiply the values by z, "
            "then the columns of U by those."
        ),
    ),
    parameters=("W", "z"),
    cases=_svf_cases,
    reference=_svf,
    mistakes=_mistakes(_svf_wrong, {
        "the change alone": "This is ΔW, which is zero at the start; the adapted weight W' is asked for.",
        "no singular values": "Z stands beside S, it does not replace it: W' = U S Z Vᵀ.",
        "added": "Z multiplies the singular values; a sum would change a small one as much as a large one.",
        "reversed": "The first factor belongs to the largest singular value: NumPy sorts them downwards.",
        "squared": "Z stands once between U and Vᵀ.",
        "W scaled as well": "Z = I has to give W itself. Yours gives 2 W: is W added to what contains it?",
        "V transposed once too often": "np.linalg.svd returns Vᵀ, not V, as its third result.",
    }),
    tolerance=1e-7,
)  # fmt: skip

# -- 3.2


def _merged(z1: Array, z2: Array, w1: float, w2: float) -> Array:
    return 1 + w1 * (z1 - 1) + w2 * (z2 - 1)


def _merged_cases(rng: np.random.Generator) -> Sequence[Case]:
    z, other = (np.round(rng.uniform(0.5, 1.5, 3), 2) for _ in range(2))
    return [
        Case("leave W as it is where neither adapter has learned", (np.ones(2), np.ones(2), 1.0, 1.0)),
        Case("reproduce one adapter where the other has learned nothing", (z, np.ones(3), 1.0, 1.0)),
        Case("add what both have learned", (np.array([1.5]), np.array([1.25]), 1.0, 1.0)),
        Case("weigh each adapter's change", (z, other, 0.25, 0.5)),
    ]


MERGED = Exercise(
    id="3.2",
    title="Two SVF adapters in one",
    text="The factors z of one adapter whose ΔW is w1 ΔW₁ + w2 ΔW₂, from the factors z1, z2 of two on one W.",
    difficulty=2,
    hints=(
        "What does one adapter add to W? Write ΔW with z, and with the 1 at which z starts.",
        "ΔW is U S (Z − I) Vᵀ: add w1 and w2 times the changes z − 1, and come back to z by adding 1.",
    ),
    parameters=("z1", "z2", "w1", "w2"),
    cases=_merged_cases,
    reference=_merged,
    mistakes=(
        Mistake("sum of factors", lambda a, b, v, w: v * a + w * b,
                "Each z contains the 1 of W itself: with w1 = w2 = 1 yours counts W twice."),
        Mistake("mean", lambda a, b, v, w: (a + b) / 2,
                "The mean halves what each has learned, and it does not use the weights."),
        Mistake("product", lambda a, b, v, w: a * b,
                "The changes ΔW are added; a product of factors has a term that neither adapter learned."),
        Mistake("no weights", lambda a, b, v, w: a + b - 1,
                "w1 and w2 say how much of each change is wanted."),
        Mistake("the change alone", lambda a, b, v, w: v * (a - 1) + w * (b - 1),
                "These are the changes; at the start z is 1, so that W' = W."),
        Mistake("weights that share", lambda a, b, v, w: (v * a + w * b) / (v + w),
                "The weights need not sum to one: w1 = w2 = 1 adds both changes in full."),
    ),
)  # fmt: skip

# -- 3.3


def _cells(d_out: int, d_in: int, d: int) -> int:
    n = min(d_out, d_in)
    return n * (2 * d + 1) - d * (d + 1)


def _cells_cases(rng: np.random.Generator) -> Sequence[Case]:
    n, extra, d = int(rng.integers(40, 400)), int(rng.integers(5, 300)), int(rng.integers(3, 30))
    return [
        Case("count a diagonal", (3, 3, 0)),
        Case("stop where the band leaves the matrix", (3, 3, 1)),
        Case("have as many singular values as the smaller side", (5, 3, 0)),
        Case("not depend on which side is the smaller", (3, 5, 1)),
        Case("be right for a band of any width", (n + extra, n, d)),
        Case("be right for a wide map too", (n, n + extra, d + 1)),
    ]


CELLS = Exercise(
    id="3.3",
    title="Trained cells of a banded SVFT",
    text="Trained cells of M (n, n): the diagonal and `d` more on each side of it, for a W of (d_out, d_in).",
    difficulty=2,
    hints=(
        "How long is the main diagonal of M, and how long is its first neighbour?",
        "The k-th off-diagonal has n − k cells and stands on both sides; n is the smaller side of W.",
    ),
    parameters=("d_out", "d_in", "d"),
    cases=_cells_cases,
    reference=_cells,
    mistakes=(
        Mistake("corners counted", lambda o, i, d: min(o, i) * (2 * d + 1),
                "The k-th off-diagonal is k cells shorter than the diagonal."),
        Mistake("one side", lambda o, i, d: min(o, i) * (d + 1) - d * (d + 1) // 2,
                "The band has d diagonals above and d below."),
        Mistake("larger side", lambda o, i, d: max(o, i) * (2 * d + 1) - d * (d + 1),
                "W has as many singular values as its smaller side is long."),
        Mistake("half the corners", lambda o, i, d: min(o, i) * (2 * d + 1) - d * (d + 1) // 2,
                "Corners are missing on both sides: 1 + 2 + … + d, twice."),
        Mistake("d diagonals in all", lambda o, i, d: min(o, i) * (d + 1),
                "d counts the diagonals on each side of the main one, and they get shorter."),
        Mistake("whole M", lambda o, i, d: min(o, i) ** 2,
                "Cells outside the band stay zero and are not trained."),
        Mistake("rank d", lambda o, i, d: d * (o + i),
                "That is LoRA's count. Here U and V are frozen and cells of M are trained."),
    ),
)  # fmt: skip

# -- 3.4


def _start(W: Array, r: int, method: str) -> tuple[Array, Array]:
    U, S, Vt = np.linalg.svd(W, full_matrices=False)
    chosen = slice(0, r) if method == "pissa" else slice(len(S) - r, len(S))
    root = np.sqrt(S[chosen])
    A, B = U[:, chosen] * root, Vt[chosen].T * root
    return A @ B.T, W - A @ B.T


def _start_cases(rng: np.random.Generator) -> Sequence[Case]:
    return [
        Case("give PiSSA the largest singular triplets", (np.diag([4.0, 1.0]), 1, "pissa")),
        Case("give MiLoRA the smallest singular triplets", (np.diag([4.0, 1.0]), 1, "milora")),
        Case("split any matrix", (rng.normal(size=(4, 3)), 2, "pissa")),
        Case("split any matrix for MiLoRA too", (rng.normal(size=(3, 5)), 1, "milora")),
    ]


def _start_wrong(kind: str) -> Callable[..., tuple[Array, Array]]:
    def answer(W: Array, r: int, method: str) -> tuple[Array, Array]:
        U, S, Vt = np.linalg.svd(W, full_matrices=False)
        principal = (method == "pissa") != (kind == "swapped")
        if kind == "always principal":
            principal = True
        chosen = slice(0, r) if principal else slice(len(S) - r, len(S))
        power = {"no singular values": 0.0, "S on both sides": 2.0, "root only once": 0.5}.get(kind, 1.0)
        product = (U[:, chosen] * S[chosen] ** power) @ Vt[chosen]
        rest = {"W stays whole": W, "rest in the wrong direction": product - W}.get(kind, W - product)
        return product, rest

    return answer


START = Exercise(
    id="3.4",
    title="Where PiSSA and MiLoRA start",
    text='The start A₀B₀ᵀ of `method` ("pissa" or "milora") at rank r, and the frozen rest of W.',
    difficulty=2,
    hints=(
        "Both take r singular triplets of W: which ones, and what is left of W?",
        "Choose the first r or the last r triplets, build U_r S_r V_rᵀ of them; the rest is W minus that.",
    ),
    parameters=("W", "r", "method"),
    cases=_start_cases,
    reference=_start,
    mistakes=_mistakes(_start_wrong, {
        "swapped": "PiSSA trains the principal components (the largest), MiLoRA the minor ones.",
        "always principal": "MiLoRA starts from the r smallest singular values.",
        "no singular values": "A₀B₀ᵀ has to carry the singular values: A₀ = U√S and B₀ = V√S.",
        "S on both sides": "U S and V S together contain S twice: each factor gets its root.",
        "root only once": "Both factors get √S; one alone leaves the other root out.",
        "W stays whole": "What the adapter takes over is taken out of W, or the model starts as another one.",
        "rest in the wrong direction": "The rest and A₀B₀ᵀ add up to W.",
    }),
    returns=("A0 B0ᵀ", "rest"),
    tolerance=1e-7,
)  # fmt: skip

# -- 3.5


def _lora_xs(W: Array, U: Array, S: Array, Vt: Array, R: Array) -> Array:
    r = len(R)
    return W + (U[:, :r] * S[:r]) @ R @ Vt[:r]


def _lora_xs_cases(rng: np.random.Generator) -> Sequence[Case]:
    def drawn(rows: int, columns: int, R: Array) -> tuple[Array, ...]:
        n = min(rows, columns)
        U, V = _orthonormal(rng, rows, n), _orthonormal(rng, columns, n)
        S = np.sort(rng.uniform(0.5, 4.0, n))[::-1].copy()
        return (U * S) @ V.T, U, S, V.T, R

    def diagonal(S: Sequence[float], R: Array) -> tuple[Array, ...]:
        return np.diag(S), np.eye(len(S)), np.array(S), np.eye(len(S)), R

    return [
        Case("leave W as it is where R is zero", diagonal((3.0, 2.0), np.zeros((1, 1)))),
        Case("add U_r S_r R V_rᵀ for one triplet", diagonal((3.0, 2.0), np.ones((1, 1)))),
        Case("mix the triplets as R says", diagonal((4.0, 3.0, 2.0), np.array([[0.0, 1.0], [0.0, 0.0]]))),
        Case("work for any shape", drawn(4, 6, rng.normal(size=(2, 2)))),
        Case("work for a tall map", drawn(7, 4, rng.normal(size=(3, 3)))),
    ]


def _lora_xs_wrong(kind: str) -> Callable[..., Array]:
    def answer(W: Array, U: Array, S: Array, Vt: Array, R: Array) -> Array:
        r = len(R)
        left, s, right = U[:, :r], S[:r], Vt[:r]
        if kind == "minor triplets":
            left, s, right = U[:, -r:], S[-r:], Vt[-r:]
        middle = {
            "R transposed": s[:, None] * R.T, "S on the other side": R * s, "no singular values": R,
            "S twice": s[:, None] * R * s, "R beside I": s[:, None] * (np.eye(r) + R),
        }.get(kind, s[:, None] * R)  # fmt: skip
        change = left @ middle @ right
        return {"the change alone": change, "minus": W - change}.get(kind, W + change)

    return answer


LORA_XS = Exercise(
    id="3.5",
    title="LoRA-XS",
    text="W' = W + U_r S_r R V_rᵀ, where R (r, r) is all that is trained; U, S, Vt are W's own.",
    difficulty=2,
    hints=(
        "Read U_r S_r R V_rᵀ from left to right and take the first r of each array.",
        "Columns of U, entries of S, rows of Vt; the singular values multiply U's columns; W is added.",
    ),
    parameters=("W", "U", "S", "Vt", "R"),
    cases=_lora_xs_cases,
    reference=_lora_xs,
    mistakes=_mistakes(_lora_xs_wrong, {
        "R transposed": "R's rows belong to the columns of U, its columns to the rows of Vᵀ.",
        "S on the other side": "S stands between U and R: U_r S_r R V_rᵀ; it does not commute with R.",
        "no singular values": "The frozen left factor is U_r S_r: where are the singular values?",
        "S twice": "S stands on one side only: U_r S_r R V_rᵀ.",
        "R beside I": "W is there already: R = 0 has to give W.",
        "minor triplets": "LoRA-XS uses the r largest singular values, the first of each array.",
        "the change alone": "This is ΔW; the adapted weight W' is asked for.",
        "minus": "W' = W + ΔW.",
    }),
    tolerance=1e-7,
)  # fmt: skip

# -- 3.6


def _scaled_step(X: Array, A: Array, eta: float) -> Array:
    return X - eta * (X @ X.T - A) @ X @ np.linalg.inv(X.T @ X)


def _scaled_step_cases(rng: np.random.Generator) -> Sequence[Case]:
    def whole(n: int, r: int) -> Array:
        return rng.integers(1, 5, (n, r)).astype(float)

    Y, Z = whole(2, 1), np.round(rng.normal(size=(5, 2)), 2)
    return [
        Case("stay where X Xᵀ = A", (Y, Y @ Y.T, 0.5)),
        Case("go down", (np.array([[2.0]]), np.array([[1.0]]), 0.5)),
        Case(
            "scale the gradient by the inverse of XᵀX", (whole(2, 1), np.array([[2.0, 1.0], [1.0, 2.0]]), 0.5)
        ),
        Case("multiply by a matrix, not by one number", (np.diag([1.0, 2.0]), np.diag([4.0, 3.0]), 0.5)),
        Case("work for any X and A", (rng.normal(size=(5, 2)), Z @ Z.T, 0.25)),
    ]


def _scaled_wrong(kind: str) -> Callable[..., Array]:
    def answer(X: Array, A: Array, eta: float) -> Array:
        gap, scale = X @ X.T - A, np.linalg.inv(X.T @ X)
        if kind == "no step size":
            eta = 1.0
        if kind == "norm instead of inverse":
            scale = np.eye(X.shape[1]) / np.sum(X**2) ** 2
        if kind == "XᵀX without the inverse":
            scale = X.T @ X
        if kind == "plain gradient":
            scale = np.eye(X.shape[1])
        if kind == "entry by entry":
            return X - eta * (gap @ X) / np.sum(X**2, axis=0) ** 0.5
        sign = 1 if kind == "uphill" else -1
        return X + sign * eta * (2 if kind == "factor 2" else 1) * gap @ X @ scale

    return answer


SCALED_STEP = Exercise(
    id="3.6",
    title="One step of scaled gradient descent",
    text="X − η (X Xᵀ − A) X (XᵀX)⁻¹ for the symmetric factorisation A ≈ X Xᵀ, with X (n, r).",
    difficulty=3,
    hints=(
        "Two steps: the gradient's part (X Xᵀ − A) X, then the matrix that rescales it.",
        (
            "XᵀX is (r, r): its inverse (np.linalg.inv) is multiplied from the right; the step goes down "
            "and has the length η."
        ),
    ),
    parameters=("X", "A", "eta"),
    cases=_scaled_step_cases,
    reference=_scaled_step,
    mistakes=_mistakes(_scaled_wrong, {
        "plain gradient": "That is ordinary gradient descent: the factor (XᵀX)⁻¹ is missing.",
        "uphill": "The error should fall: which sign does the step have?",
        "XᵀX without the inverse": "The gradient is multiplied by the inverse of XᵀX.",
        "norm instead of inverse": "(XᵀX)⁻¹ is a matrix (r, r), not one number.",
        "entry by entry": "XᵀX is a product of matrices; dividing by column norms is something else.",
        "no step size": "The step is multiplied by η.",
        "factor 2": "In the formula given the step has no factor 2: it is absorbed in η.",
    }),
    tolerance=1e-7,
)  # fmt: skip

EXERCISES = (SVF, MERGED, CELLS, START, LORA_XS, SCALED_STEP)
