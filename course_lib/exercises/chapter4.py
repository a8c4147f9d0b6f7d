"""Chapter 4, QLoRA: rounding, NF4, scales of scales, packed bytes, a layer's backward pass, its roof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from course_lib.exercises.record import Case, Exercise, Mistake

Array = np.ndarray
_NF4_END = 0.9677083  # the outermost quantile of NF4


def _mistakes(wrong: Callable[[str], Callable[..., Any]], hints: dict[str, str]) -> tuple[Mistake, ...]:
    return tuple(Mistake(kind, wrong(kind), hint) for kind, hint in hints.items())


def _code(rng: np.random.Generator, count: int) -> Array:
    """A code of some values from −1 to 1, unevenly spaced, with an exact zero."""
    inner = np.sort(rng.uniform(-0.9, 0.9, count - 3))
    return np.sort(np.concatenate([[-1.0, 0.0, 1.0], inner]))


# -- 4.1


def _nearest(x: Array, code: Array) -> tuple[Array, float]:
    scale = float(np.max(np.abs(x)))
    scaled = x / scale if scale else x
    return np.argmin(np.abs(scaled[:, None] - code), axis=1), scale


def _nearest_cases(rng: np.random.Generator) -> Sequence[Case]:
    thirds = np.array([-1.0, -0.25, 0.0, 0.5, 1.0])
    return [
        Case("take the largest magnitude as the scale", (np.array([-2.0, 1.0]), thirds)),
        Case("round to the nearest value", (np.array([1.0, 0.4, 0.1, -0.2]), thirds)),
        Case("give zeros the index of 0", (np.zeros(2), thirds)),
        Case("be right for any block and code", (rng.normal(size=9) * 5, _code(rng, 8))),
        Case("be right for small numbers too", (rng.normal(size=6) * 1e-3, _code(rng, 16))),
    ]


def _nearest_wrong(kind: str) -> Callable[..., tuple[Array, float]]:
    def answer(x: Array, code: Array) -> tuple[Array, float]:
        scale = float(np.max(np.abs(x)))
        if kind == "largest, not largest magnitude":
            scale = float(np.max(x))
        if kind == "standard deviation":
            scale = float(np.std(x))
        if kind == "reciprocal":
            return _nearest(x, code)[0], 1 / scale if scale else 0.0
        guard = scale or (np.nan if kind == "divided by zero" else 1.0)
        scaled = x if kind == "not scaled" else x / guard
        index = np.argmin(np.abs(scaled[:, None] - code), axis=1)
        if kind == "rounded down":
            index = np.searchsorted(code, scaled, side="right") - 1
        if kind == "values instead of indices":
            return code[index], scale
        return index, scale

    return answer


NEAREST = Exercise(
    id="4.1",
    title="Round a block to a code",
    text="The largest magnitude of x, and for each x / that the index of the nearest value of the code.",
    difficulty=2,
    hints=(
        "Bring the block into −1 … 1 first. Which one number does that for every block?",
        (
            "Divide by the largest |x| (unless it is 0); then the table |x[:, None] − code| has its "
            "smallest entry of each row at the index."
        ),
    ),
    parameters=("x", "code"),
    cases=_nearest_cases,
    reference=_nearest,
    mistakes=_mistakes(_nearest_wrong, {
        "largest, not largest magnitude": "The largest magnitude may lie below zero: that of −2 and 1 is 2.",
        "standard deviation": "Divided by the standard deviation, numbers can lie outside −1 … 1.",
        "reciprocal": "The scale is what the code's values are multiplied by to come back, not divided by.",
        "divided by zero": "A block of zeros has the scale 0: what is 0 / 0? Leave such a block as it is.",
        "not scaled": "The code reaches from −1 to 1: divide the block by its scale first.",
        "rounded down": "You take the next value below; the nearest one may lie above.",
        "values instead of indices": "What is stored is the index, four bits; the value is looked up later.",
    }),
    returns=("the indices", "the scale"),
)  # fmt: skip

# -- 4.2


def _round_trip(x: Array, code: Array, block: int) -> Array:
    back = np.zeros(len(x))
    for begin in range(0, len(x), block):
        part = x[begin : begin + block]
        values = code * np.max(np.abs(part))
        nearest = np.argmin(np.abs(part[:, None] - values), axis=1)
        back[begin : begin + block] = values[nearest]
    return back


def _round_trip_cases(rng: np.random.Generator) -> Sequence[Case]:
    three = np.array([-1.0, 0.0, 1.0])
    uneven = rng.normal(size=12) * np.repeat([1.0, 100.0, 0.01], 4)
    return [
        Case("round a single block", (np.array([2.0, 1.5, -0.5]), three, 3)),
        Case("give every block a scale of its own", (np.array([1.0, 0.2, 10.0, 2.0]), three, 2)),
        Case("keep an outlier to its own block", (uneven, _code(rng, 8), 4)),
        Case("quantise the last, shorter block too", (rng.normal(size=11), _code(rng, 8), 4)),
    ]


def _round_trip_wrong(kind: str) -> Callable[..., Array]:
    def answer(x: Array, code: Array, block: int) -> Array:
        if kind == "one scale for all":
            return _round_trip(x, code, len(x))
        if kind == "number of blocks":
            return _round_trip(x, code, -(-len(x) // block))
        if kind == "last block left out":
            full = len(x) // block * block
            return np.concatenate([_round_trip(x[:full], code, block), np.zeros(len(x) - full)])
        back = np.zeros(len(x))
        for begin in range(0, len(x), block):
            part = x[begin : begin + block]
            scale = np.max(np.abs(part))
            if kind == "scale of the first block":
                scale = np.max(np.abs(x[:block]))
            if kind == "mean magnitude":
                scale = np.mean(np.abs(part))
            index = np.argmin(np.abs(part[:, None] - code * scale), axis=1)
            values = {"not scaled back": code[index], "indices": index}.get(kind, code[index] * scale)
            back[begin : begin + block] = values
        return back

    return answer


ROUND_TRIP = Exercise(
    id="4.2",
    title="Quantise block by block, and back",
    text="x rounded to the code, where every `block` neighbours share a scale, their largest magnitude.",
    difficulty=2,
    hints=(
        "Write it for one block first: scale, index, value. Then go through x in steps of `block`.",
        (
            "A slice x[i : i + block] may be shorter at the end; what comes back is code[index] times that "
            "block's own scale."
        ),
    ),
    parameters=("x", "code", "block"),
    cases=_round_trip_cases,
    reference=_round_trip,
    mistakes=_mistakes(_round_trip_wrong, {
        "one scale for all": "Your scale is that of all numbers: one outlier then spoils every block.",
        "number of blocks": "`block` is how many numbers share a scale, not how many blocks there are.",
        "last block left out": "The numbers need not fill the last block: a shorter one is a block too.",
        "scale of the first block": "Every block has a scale of its own, its own largest magnitude.",
        "mean magnitude": "With the mean as the scale, larger numbers lie outside the code and are cut off.",
        "not scaled back": "Your result lies between −1 and 1: multiply by the block's scale again.",
        "indices": "These are indices; look their values up in the code and scale them back.",
    }),
    tolerance=1e-7,
)  # fmt: skip

# -- 4.3


def _normal_float(bits: int, outermost: float) -> Array:
    def quantiles(count: int) -> list[float]:
        return [NormalDist().inv_cdf(p) for p in np.linspace(outermost, 0.5, count + 1)[:-1]]

    half = 2 ** (bits - 1)
    values = [-q for q in quantiles(half - 1)] + [0.0] + quantiles(half)
    return np.sort(values) / quantiles(half)[0]


def _normal_float_cases(rng: np.random.Generator) -> Sequence[Case]:
    return [
        Case("have 2 ** bits values from −1 to 1, one of them 0", (2, _NF4_END)),
        Case("take its values from quantiles of the normal distribution", (3, 0.9)),
        Case("give NF4", (4, _NF4_END)),
        Case("start at any quantile", (4, float(rng.uniform(0.8, 0.999)))),
        Case("have any number of bits", (int(rng.integers(5, 8)), float(rng.uniform(0.9, 0.999)))),
    ]


def _normal_float_wrong(kind: str) -> Callable[..., Array]:
    def answer(bits: int, outermost: float) -> Array:
        count, half, inverse = 2**bits, 2 ** (bits - 1), NormalDist().inv_cdf
        right = _normal_float(bits, outermost)
        if kind == "evenly spaced":
            return np.linspace(-1, 1, count)
        if kind == "no zero":
            values = np.array([inverse(p) for p in np.linspace(1 - outermost, outermost, count)])
            return values / values.max()
        if kind == "not divided":
            return right * inverse(outermost)
        if kind == "sides swapped":
            return -right[::-1]
        if kind == "probabilities":
            places = [np.linspace(outermost, 0.5, n + 1)[:-1] - 0.5 for n in (half, half - 1)]
            values = np.sort(np.concatenate([places[0], [0.0], -places[1]]))
            return values / values.max()
        if kind == "one spacing":
            values = np.array([inverse(p) for p in np.linspace(outermost, 0.5, half + 1)[:-1]])
            return np.sort(np.concatenate([values, [0.0], -values[:-1]])) / values.max()
        return right[::-1]

    return answer


NORMAL_FLOAT = Exercise(
    id="4.3",
    title="NormalFloat from quantiles",
    text=(
        "The 2 ** bits values of NormalFloat, in rising order: 0, half of them above it, one fewer below, "
        "each side at quantiles evenly spaced in probability between `outermost` and ½, all over the largest."
    ),
    difficulty=3,
    hints=(
        "Probabilities are evenly spaced, values are not: NormalDist().inv_cdf turns one into the other.",
        (
            "Half of the values come from quantiles above ½, one fewer from below with a spacing of its "
            "own; 0 is added; divide by the largest."
        ),
    ),
    parameters=("bits", "outermost"),
    cases=_normal_float_cases,
    reference=_normal_float,
    mistakes=_mistakes(_normal_float_wrong, {
        "evenly spaced": "That is an integer grid. The probabilities are evenly spaced, not the values.",
        "no zero": "Cut into equal parts from end to end, 0 is no value of it: each side has its own parts.",
        "not divided": "The largest value has to be 1, so that a block's scale is its largest magnitude.",
        "sides swapped": "The side above zero has one value more than the one below.",
        "probabilities": "These are probabilities. Which number has that much of the distribution below it?",
        "one spacing": "Below zero there is one value fewer, so that side has a wider spacing of its own.",
        "falling order": "Sort the values from −1 up to 1.",
    }),
    tolerance=1e-6,
)  # fmt: skip

# -- 4.4


def _packed(indices: Array, pad: int) -> Array:
    if len(indices) % 2 == 1:
        indices = np.append(indices, pad)
    return 16 * indices[0::2] + indices[1::2]


def _packed_cases(rng: np.random.Generator) -> Sequence[Case]:
    return [
        Case("put the first of two into the high half", (np.array([1, 2]), 7)),
        Case("put neighbours into one byte", (np.array([1, 2, 3, 4]), 7)),
        Case("fill an odd number up with `pad`", (np.array([5, 6, 9]), 7)),
        Case("pack any indices", (rng.integers(0, 16, 12), 7)),
        Case("pack any odd number of them", (rng.integers(0, 16, 9), int(rng.integers(1, 7)))),
    ]


def _packed_wrong(kind: str) -> Callable[..., Array]:
    def answer(indices: Array, pad: int) -> Array:
        odd = len(indices) % 2
        if kind == "last one left out":
            return _packed(indices[: len(indices) - odd], pad)
        filled = np.append(indices, 0 if kind == "filled up with 0" else pad) if odd else indices
        first, second = filled[0::2], filled[1::2]
        if kind == "halves":
            first, second = np.split(filled, 2)
        return {
            "low half first": first + 16 * second, "not shifted": first + second,
            "whole byte": 256 * first + second, "three bits": 8 * first + second,
        }.get(kind, 16 * first + second)  # fmt: skip

    return answer


PACKED = Exercise(
    id="4.4",
    title="Two numbers in a byte",
    text="Bytes of two indices (0 … 15) each, the first in the high half; `pad` fills up an odd count.",
    difficulty=1,
    hints=(
        "One byte is two digits in base 16. Which arithmetic puts a digit into the first place?",
        (
            "Fill up to an even count, then take the even places times 16 plus the odd places: [0::2] and "
            "[1::2]."
        ),
    ),
    parameters=("indices", "pad"),
    cases=_packed_cases,
    reference=_packed,
    mistakes=_mistakes(_packed_wrong, {
        "low half first": "The first index of a pair belongs into the high half: multiply that one by 16.",
        "not shifted": "A sum alone cannot be taken apart again: the first has to move up by four bits.",
        "whole byte": "× 256 moves up by eight bits, out of the byte; half a byte has four.",
        "three bits": "× 8 moves up by three bits: an index of four bits would overlap its neighbour.",
        "halves": "A byte holds two neighbours, not one index of the first half and one of the second.",
        "last one left out": "An odd number of indices has a last byte too: fill it up with `pad`.",
        "filled up with 0": "Index 0 stands for −1; `pad` is the index that stands for 0.",
    }),
)  # fmt: skip

# -- 4.5


def _double(scales: Array, code: Array, block: int) -> Array:
    mean = scales.mean()
    groups = (scales - mean).reshape(-1, block)
    largest = np.abs(groups).max(axis=1)[:, None, None]
    index = np.argmin(np.abs(groups[:, :, None] - code * largest), axis=2)
    return (code[index] * largest[:, 0]).ravel() + mean


def _double_cases(rng: np.random.Generator) -> Sequence[Case]:
    three = np.array([-1.0, 0.0, 1.0])
    return [
        Case("subtract the mean first and add it last", (np.array([3.0, 5.0]), three, 2)),
        Case("give every group a second scale", (np.array([1.0, 2.0, 9.0, 12.0]), three, 2)),
        Case("be right for any scales", (rng.uniform(0.5, 1.5, 12), _code(rng, 8), 4)),
        Case("be right for groups that differ", (rng.gamma(2.0, size=16), _code(rng, 12), 8)),
    ]


def _double_wrong(kind: str) -> Callable[..., Array]:
    def answer(scales: Array, code: Array, block: int) -> Array:
        mean = scales.mean()
        if kind == "mean not added":
            return _double(scales, code, block) - mean
        if kind == "no mean":
            return _round_trip(scales, code, block)
        if kind == "mean of each group":
            groups = scales.reshape(-1, block)
            return np.concatenate([_double(group, code, block) for group in groups])
        if kind == "one second scale":
            return _double(scales, code, len(scales))
        if kind == "smallest instead of mean":
            return _round_trip(scales - scales.min(), code, block) + scales.min()
        if kind == "no second scale":
            index = np.argmin(np.abs((scales - mean)[:, None] - code), axis=1)
            return code[index] + mean
        if kind == "mean added before scaling back":
            rounded = _round_trip(scales - mean, code, block).reshape(-1, block)
            largest = np.abs((scales - mean).reshape(-1, block)).max(axis=1)[:, None]
            return ((rounded / largest + mean) * largest).ravel()
        return scales

    return answer


DOUBLE = Exercise(
    id="4.5",
    title="Double quantisation",
    text=(
        "The scales as they come back from double quantisation: less their mean, rounded to the code in "
        "groups of `block` with a second scale each, plus the mean. Their number is a multiple of `block`."
    ),
    difficulty=3,
    hints=(
        "It is 4.2 once more, on the scales less their mean: what has to happen before it, and after?",
        (
            "Subtract the mean of all scales, round in groups of `block` by the group's largest magnitude, "
            "add the mean."
        ),
    ),
    parameters=("scales", "code", "block"),
    cases=_double_cases,
    reference=_double,
    mistakes=_mistakes(_double_wrong, {
        "mean not added": "Your scales are spread around zero: the mean has to be added again.",
        "no mean": "Scales are positive, so half of a signed code would never be used: subtract the mean.",
        "mean of each group": "One mean serves all scales; another for each group would have to be stored.",
        "one second scale": "Every group of `block` scales has a second scale of its own.",
        "smallest instead of mean": "Subtract the mean instead, so that both signs of the code are used.",
        "no second scale": "The code reaches from −1 to 1: divide by the group's largest magnitude first.",
        "mean added before scaling back": "First times the second scale, then plus the mean.",
        "nothing rounded": "These are the scales themselves: nothing was rounded to the code.",
    }),
    tolerance=1e-7,
)  # fmt: skip

# -- 4.6


def _backward(x: Array, g: Array, W: Array, A: Array, B: Array, scaling: float) -> tuple[Array, Array, Array]:
    inner = scaling * g @ A
    return g @ W + inner @ B.T, scaling * g.T @ (x @ B), x.T @ inner


def _backward_cases(rng: np.random.Generator) -> Sequence[Case]:
    def drawn(rows: int, d_in: int, d_out: int, r: int, scaling: float) -> tuple[Any, ...]:
        shapes = ((rows, d_in), (rows, d_out), (d_out, d_in), (d_out, r), (d_in, r))
        return *(rng.normal(size=shape) for shape in shapes), scaling

    one = np.ones((1, 1))
    start = drawn(2, 3, 3, 1, 1.0)
    return [
        Case("be right for numbers", (2 * one, 3 * one, 5 * one, 7 * one, 11 * one, 1.0)),
        Case("leave the base's gradient alone where A is zero", (*start[:3], 0 * start[3], *start[4:])),
        Case("scale the adapter's part", drawn(1, 2, 2, 1, 0.5)),
        Case("work where d_in and d_out differ", drawn(3, 5, 4, 2, 2.0)),
    ]


def _backward_wrong(kind: str) -> Callable[..., tuple[Array, Array, Array]]:
    def answer(
        x: Array, g: Array, W: Array, A: Array, B: Array, scaling: float
    ) -> tuple[Array, Array, Array]:
        dx, dA, dB = _backward(x, g, W, A, B, scaling)
        if kind == "scaling left out":
            return _backward(x, g, W, A, B, 1.0)
        if kind == "base alone":
            dx = g @ W
        if kind == "adapter alone":
            dx = dx - g @ W
        if kind == "scaling on the base":
            dx = dx + (scaling - 1) * g @ W
        if kind == "A and B swapped":
            dA, dB = dB, dA
        if kind == "mean over rows":
            dA, dB = dA / (2 * len(x)), dB / (2 * len(x))
        if kind == "B's gradient without A":
            dB = scaling * x.T @ np.repeat(g.sum(axis=1, keepdims=True), A.shape[1], axis=1)
        if kind == "transposed":
            dA, dB = dA.T, dB.T
        return dx, dA, dB

    return answer


BACKWARD = Exercise(
    id="4.6",
    title="The backward pass of a QLoRA layer",
    text=(
        "y = x Wᵀ + s (x B) Aᵀ with W frozen: from g = ∂L/∂y (rows, d_out), the gradients of x (rows, d_in), "
        "A (d_out, r) and B (d_in, r)."
    ),
    difficulty=3,
    hints=(
        "x reaches y along two paths, so its gradient is a sum of two. A and B each lie on one path.",
        (
            "The gradient behind A is s g A, (rows, r): times Bᵀ it reaches x, from the left by xᵀ it is "
            "B's; A's is s gᵀ(x B)."
        ),
    ),
    parameters=("x", "g", "W", "A", "B", "scaling"),
    cases=_backward_cases,
    reference=_backward,
    mistakes=_mistakes(_backward_wrong, {
        "scaling left out": "s = α / r stands before the adapter's product, and so in all of its gradients.",
        "base alone": "x also goes through the adapter: its gradient has a part s g A Bᵀ.",
        "adapter alone": "W is frozen, but the gradient still flows through it down to x: where is g W?",
        "scaling on the base": "s multiplies the adapter's product only, not that of W.",
        "A and B swapped": "The gradient of A has A's shape, (d_out, r); that of B is (d_in, r).",
        "mean over rows": "The mean over rows, if there is one, is in g already: sum over the rows.",
        "B's gradient without A": "To reach B, the gradient passes through A: s xᵀ (g A).",
        "transposed": "A gradient has the shape of what it belongs to: yours are transposed.",
    }),
    returns=("the gradient of x", "the gradient of A", "the gradient of B"),
    tolerance=1e-7,
)  # fmt: skip

# -- 4.7


def _least_seconds(
    rows: int, d_out: int, d_in: int, bits: float, bandwidth: float, arithmetic: float
) -> float:
    moved = d_out * d_in * bits / 8 + 2 * rows * (d_in + d_out)
    operations = 2 * rows * d_out * d_in
    return max(moved / bandwidth, operations / arithmetic)


def _least_seconds_cases(rng: np.random.Generator) -> Sequence[Case]:
    d_out, d_in = (int(n) for n in rng.integers(500, 9000, 2))
    return [
        Case("count the bytes of the weights", (1, 1000, 1000, 8, 1.0, 1e12)),
        Case("count what goes in and what comes out", (3, 2, 5, 16, 1.0, 1e12)),
        Case("count a multiplication and an addition", (7, 2, 3, 4, 1e12, 1.0)),
        Case("be bound by memory at one row", (1, d_out, d_in, 4.127, 3e12, 9e14)),
        Case("be bound by arithmetic at many rows", (8192, d_out, d_in, 4.127, 3e12, 9e14)),
    ]


def _least_seconds_wrong(kind: str) -> Callable[..., float]:
    def answer(rows: int, d_out: int, d_in: int, bits: float, bandwidth: float, arithmetic: float) -> float:
        width = {"bits": bits, "16-bit weights": 2.0}.get(kind, bits / 8)
        ends = {"weights alone": 0, "input alone": d_in, "one row": (d_in + d_out) / rows}.get(
            kind, d_in + d_out
        )
        moved = d_out * d_in * width + 2 * rows * ends
        operations = (1 if kind == "one operation" else 2) * rows * d_out * d_in
        times = moved / bandwidth, operations / arithmetic
        chosen = {
            "sum": sum(times),
            "smaller": min(times),
            "memory alone": times[0],
            "arithmetic alone": times[1],
        }
        return chosen.get(kind, max(times))

    return answer


LEAST_SECONDS = Exercise(
    id="4.7",
    title="The roof over a layer",
    text=(
        "Least seconds of y = x Wᵀ for `rows` rows: W read once at `bits` a number, x and y once at 16 bits, "
        "at `bandwidth` bytes a second, beside two operations a weight and row at `arithmetic` a second."
    ),
    difficulty=2,
    hints=(
        (
            "Two clocks run at the same time: bytes through the memory, operations through the units. "
            "Which one decides?"
        ),
        (
            "Bytes: d_out·d_in·bits/8, and 2 for each number of x and y; operations: 2 for each weight and "
            "row; take the larger time."
        ),
    ),
    parameters=("rows", "d_out", "d_in", "bits", "bandwidth", "arithmetic"),
    cases=_least_seconds_cases,
    reference=_least_seconds,
    mistakes=_mistakes(_least_seconds_wrong, {
        "sum": "Loads and arithmetic overlap: the slower of the two decides, not their sum.",
        "smaller": "The slower of the two decides: both have to be done.",
        "memory alone": "With many rows the arithmetic takes longer than the loads.",
        "arithmetic alone": "With few rows the loads take longer than the arithmetic.",
        "bits": "Bandwidth is in bytes: eight bits each.",
        "16-bit weights": "The weights are read at `bits` a number; only x and y have 16 bits.",
        "weights alone": "x has to be read and y to be written as well.",
        "input alone": "y has to be written as well.",
        "one row": "Every row has an input and an output of its own.",
        "one operation": "Each weight and row takes a multiplication and an addition.",
    }),
)  # fmt: skip

EXERCISES = (NEAREST, ROUND_TRIP, NORMAL_FLOAT, PACKED, DOUBLE, BACKWARD, LEAST_SECONDS)
