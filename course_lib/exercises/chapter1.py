"""Chapter 1, memory accounting: what each byte of inference, fine-tuning and adapters is for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from course_lib.exercises.record import Case, Exercise, Mistake

Array = np.ndarray


def _integers(rng: np.random.Generator, *bounds: tuple[int, int]) -> tuple[int, ...]:
    return tuple(int(rng.integers(low, high)) for low, high in bounds)


# -- 1.1


def _cache_bytes(
    layers: int, batch: int, length: int, heads: int, kv_heads: int, head_dim: int, width: int
) -> int:
    return 2 * layers * batch * length * kv_heads * head_dim * width


def _cache_cases(rng: np.random.Generator) -> Sequence[Case]:
    layers, batch, length, kv, group, dim = _integers(
        rng, (2, 80), (2, 16), (2, 4096), (2, 8), (2, 8), (32, 128)
    )
    return [
        Case("count keys and values", (1, 1, 1, 1, 1, 1, 1)),
        Case("count bytes, not numbers", (1, 1, 1, 1, 1, 3, 2)),
        Case("count every layer, sequence and token", (2, 3, 5, 1, 1, 1, 1)),
        Case("count the heads that keys and values have", (1, 1, 1, 8, 2, 4, 2)),
        Case("be right for a whole model", (layers, batch, length, kv * group, kv, dim, 2)),
    ]


CACHE = Exercise(
    id="1.1",
    title="Bytes of the KV cache",
    text="Bytes of all keys and values of `batch` sequences of `length` tokens, `width` bytes a number.",
    difficulty=1,
    hints=(
        "Which arrays does a later token still need from the tokens before it? Write down the shape of one.",
        (
            "Keys and values of one layer are (batch, kv_heads, length, head_dim) each: multiply out, then "
            "count layers and bytes."
        ),
    ),
    parameters=("layers", "batch", "length", "heads", "kv_heads", "head_dim", "width"),
    cases=_cache_cases,
    reference=_cache_bytes,
    mistakes=(
        Mistake("query heads", lambda L, b, s, a, k, d, w: 2 * L * b * s * a * d * w,
                "In grouped-query attention several query heads share one key head: which are cached?"),
        Mistake("keys alone", lambda L, b, s, a, k, d, w: L * b * s * k * d * w,
                "Attention weighs the values with what queries and keys say: both K and V are cached."),
        Mistake("one sequence", lambda L, b, s, a, k, d, w: 2 * L * s * k * d * w,
                "Every sequence of the batch has a past of its own."),
        Mistake("one layer", lambda L, b, s, a, k, d, w: 2 * b * s * k * d * w,
                "Every layer has keys and values of its own."),
        Mistake("numbers", lambda L, b, s, a, k, d, w: 2 * L * b * s * k * d,
                "You counted numbers; how many bytes does each take?"),
        Mistake("attention matrix", lambda L, b, s, a, k, d, w: 2 * L * b * s * s * k * w,
                "The cache grows linearly with the length; the s × s scores are not kept."),
    ),
)  # fmt: skip

# -- 1.2


def _adam(
    W: Array, g: Array, m: Array, v: Array, gamma: float, beta1: float, beta2: float, eps: float
) -> tuple[Array, Array, Array]:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    return W - gamma / (np.sqrt(v) + eps) * m, m, v


def _adam_cases(rng: np.random.Generator) -> Sequence[Case]:
    def drawn(shape: tuple[int, ...], steps: float) -> tuple[object, ...]:
        W, g, m = (rng.normal(size=shape) for _ in range(3))
        return W, g, m * steps, rng.uniform(0.1, 1.0, shape) * steps, 0.01, 0.9, 0.99, 1e-2

    one = np.ones(1)
    return [
        Case("move against the gradient in a first step", (one, one, 0 * one, 0 * one, 0.1, 0.9, 0.99, 1e-3)),
        Case("update both averages", drawn((2,), 1.0)),
        Case("work for a matrix", drawn((3, 2), 1.0)),
        Case("start from averages of zero", drawn((4,), 0.0)),
    ]


def _adam_wrong(kind: str):  # type: ignore[no-untyped-def]
    """Adam's step with one thing wrong."""

    def step(W, g, m, v, gamma, beta1, beta2, eps):  # type: ignore[no-untyped-def]
        if kind == "swapped betas":
            beta1, beta2 = beta2, beta1
        new_m = beta1 * m + (1 - beta1) * g
        new_v = beta2 * v + (1 - beta2) * (g if kind == "no square" else g**2)
        if kind == "averages not weighted":
            new_m, new_v = beta1 * m + g, beta2 * v + g**2
        used_m = {"old mean": m, "gradient instead of mean": g}.get(kind, new_m)
        used_v = v if kind == "old squares" else new_v
        if kind == "bias correction":
            used_m, used_v = new_m / (1 - beta1), new_v / (1 - beta2)
        if kind == "eps inside the root":
            scale = 1 / np.sqrt(used_v + eps)
        else:
            scale = 1 / ((used_v if kind == "no root" else np.sqrt(used_v)) + eps)
        sign = 1 if kind == "uphill" else -1
        return W + sign * gamma * scale * used_m, new_m, new_v

    return step


ADAM = Exercise(
    id="1.2",
    title="One step of Adam",
    text="The lecture's update: new averages m, v from the gradient g, then new weights. Return (W, m, v).",
    difficulty=2,
    hints=(
        "Three lines in the lecture's order: the mean m, the squares v, then W, which uses the new ones.",
        (
            "An average is β·old + (1 − β)·new, of g for m and of g² for v; W loses γ·m/(√v + ε), entry by "
            "entry."
        ),
    ),
    parameters=("W", "g", "m", "v", "gamma", "beta1", "beta2", "eps"),
    cases=_adam_cases,
    reference=_adam,
    mistakes=tuple(
        Mistake(kind, _adam_wrong(kind), hint)
        for kind, hint in {
            "no square": "v averages the squares of the gradient.",
            "old mean": "The weights move along the new average: m changes before W does.",
            "old squares": "The step is divided by the root of the new v: v changes before W does.",
            "bias correction": "The lecture's formula leaves out the correction of m and v by 1 − β.",
            "gradient instead of mean": "The step goes along the average m, not along the last gradient.",
            "eps inside the root": "In the lecture's formula ε is added to √v, outside the root.",
            "no root": "The step is divided by √v, so that its size does not depend on the gradient's units.",
            "swapped betas": "β₁ belongs to the mean m, β₂ to the squares v.",
            "averages not weighted": "An average gives the new value the weight (1 − β).",
            "uphill": "The loss should fall: which sign does the step have?",
        }.items()
    ),
    returns=("W", "m", "v"),
    tolerance=1e-7,
)

# -- 1.3


def _sft_bytes(parameters: int, weight: int, gradient: int, state: int, master: int) -> int:
    return parameters * (weight + gradient + 2 * state + master)


def _sft_cases(rng: np.random.Generator) -> Sequence[Case]:
    drawn = [(int(rng.integers(10**6, 10**11)), 2, 4, 4, 4) for _ in range(2)]
    return [
        Case("count weights, gradients and both of Adam's averages", (1, 4, 4, 4, 0)),
        Case("tell weights, gradients and averages apart by their own sizes", (10, 2, 3, 5, 0)),
        Case("count the fp32 master copy where there is one", (1, 2, 2, 4, 4)),
        *(Case("give the same bytes a parameter at any size", arguments) for arguments in drawn),
    ]


SFT_BYTES = Exercise(
    id="1.3",
    title="Bytes of supervised fine-tuning",
    text="Bytes that weights, gradients, Adam's two averages and the master copy take together.",
    difficulty=1,
    hints=(
        "List all that is kept for a single parameter, then multiply by their number.",
        "A weight, a gradient, two averages of Adam and the master copy: each has its own number of bytes.",
    ),
    parameters=("parameters", "weight", "gradient", "state", "master"),
    cases=_sft_cases,
    reference=_sft_bytes,
    mistakes=(
        Mistake("one average", lambda n, w, g, s, m: n * (w + g + s + m),
                "Adam keeps two running averages for every parameter: which one did you leave out?"),
        Mistake("no gradient", lambda n, w, g, s, m: n * (w + 2 * s + m),
                "Between the backward pass and the optimiser's step there is one more number a parameter."),
        Mistake("no master copy", lambda n, w, g, s, m: n * (w + g + 2 * s),
                "In mixed precision the optimiser updates an fp32 copy of the weights, always there."),
        Mistake("weights instead of the master copy", lambda n, w, g, s, m: n * (m + g + 2 * s) if m
                else n * (w + g + 2 * s),
                "The master copy stands beside the 16-bit weights, it does not replace them."),
        Mistake("both averages in the gradient's type", lambda n, w, g, s, m: n * (w + 3 * g + m),
                "The averages have a type of their own (`state`): 16-bit gradients may go with fp32 ones."),
        Mistake("gibibytes", lambda n, w, g, s, m: n * (w + g + 2 * s + m) / 2**30,
                "Bytes are asked for: leave the division to whoever prints the number."),
    ),
)  # fmt: skip

# -- 1.4


def _lora_parameters(shapes: list[tuple[int, int]], rank: int) -> int:
    return sum(rank * (d_out + d_in) for d_out, d_in in shapes)


def _lora_cases(rng: np.random.Generator) -> Sequence[Case]:
    drawn = [[int(n) for n in rng.integers(16, 4096, 2)] for _ in range(7)]
    return [
        Case("count A and B of one matrix", ([[2, 2]], 1)),
        Case("work for a matrix that is not square", ([[3, 5]], 1)),
        Case("grow with the rank", ([[3, 5]], 4)),
        Case("add up all matrices", ([[3, 5], [7, 2]], 2)),
        Case("be right for a whole block", (drawn, int(rng.integers(2, 64)))),
    ]


LORA = Exercise(
    id="1.4",
    title="Trainable parameters of LoRA",
    text="How many parameters LoRA of rank r trains on matrices of the given (d_out, d_in).",
    difficulty=1,
    hints=(
        "Take one matrix of shape (5, 3) and rank 2: draw A and B and count their cells.",
        "A has d_out rows and B has d_in rows, both have `rank` columns; then add over the matrices.",
    ),
    parameters=("shapes", "rank"),
    cases=_lora_cases,
    reference=_lora_parameters,
    mistakes=(
        Mistake("the whole matrix", lambda shapes, r: sum(o * i for o, i in shapes),
                "That is what full fine-tuning trains; LoRA freezes W and trains A and B."),
        Mistake("product", lambda shapes, r: sum(r * o * i for o, i in shapes),
                "A has d_out · r numbers, B has d_in · r: do they multiply or add?"),
        Mistake("A alone", lambda shapes, r: sum(r * o for o, i in shapes), "A is half of it: where is B?"),
        Mistake("B alone", lambda shapes, r: sum(r * i for o, i in shapes), "B is half of it: where is A?"),
        Mistake("square", lambda shapes, r: sum(2 * r * i for o, i in shapes),
                "Not every matrix is square: A has d_out rows, B has d_in."),
        Mistake("LoRA-XS", lambda shapes, r: sum(r * r for o, i in shapes),
                "r × r is what LoRA-XS trains, between frozen A and B; in LoRA both are trained."),
        Mistake("one matrix", lambda shapes, r: r * (shapes[0][0] + shapes[0][1]),
                "Every adapted matrix has an A and a B of its own."),
    ),
)  # fmt: skip

# -- 1.5


def _largest_batch(budget: int, static: int, per_sequence: int) -> int:
    return max(0, (budget - static) // per_sequence)


def _batch_cases(rng: np.random.Generator) -> Sequence[Case]:
    static, per, extra = _integers(rng, (10**9, 10**10), (10**7, 10**9), (2, 60))
    return [
        Case("use what the static part leaves", (10, 4, 2)),
        Case("round down: half a sequence does not fit", (10, 3, 4)),
        Case("be 0 where not even the static part fits", (5, 9, 2)),
        Case("use the last byte", (9, 3, 3)),
        Case("be right for real sizes", (static + extra * per + per // 3, static, per)),
    ]


BATCH = Exercise(
    id="1.5",
    title="The largest batch that fits",
    text="How many sequences fit in `budget` bytes, where `static` bytes are taken whatever the batch.",
    difficulty=1,
    hints=(
        "What is left of the budget once the static part is there? How many whole sequences fit into that?",
        "Integer division `//` rounds down; `max` keeps the result from falling below 0.",
    ),
    parameters=("budget", "static", "per_sequence"),
    cases=_batch_cases,
    reference=_largest_batch,
    mistakes=(
        Mistake("no static part", lambda b, s, p: b // p,
                "Weights, gradients and optimiser states are there before the first sequence."),
        Mistake("rounded", lambda b, s, p: max(0, round((b - s) / p)),
                "Rounding up promises memory that is not there."),
        Mistake("rounded up", lambda b, s, p: max(0, -((s - b) // p)),
                "The last, incomplete sequence would run out of memory: round down."),
        Mistake("negative", lambda b, s, p: (b - s) // p,
                "Where even the static part does not fit, no sequence does: what is the smallest batch?"),
        Mistake("not whole", lambda b, s, p: max(0.0, (b - s) / p),
                "A batch is a whole number of sequences."),
    ),
)  # fmt: skip

# -- 1.6


def _checkpointed(layers: int, input_bytes: int, block_bytes: int) -> int:
    return layers * input_bytes + block_bytes - input_bytes


def _checkpoint_cases(rng: np.random.Generator) -> Sequence[Case]:
    layers, small, factor = _integers(rng, (4, 80), (10**3, 10**6), (8, 40))
    return [
        Case("cost nothing extra for a single block", (1, 3, 20)),
        Case("keep the inputs of all blocks", (5, 3, 20)),
        Case("be right for real sizes", (layers, small, small * factor)),
    ]


CHECKPOINT = Exercise(
    id="1.6",
    title="Activations with checkpointing",
    text=(
        "Most bytes of activations alive at once when every block keeps its input alone and is computed "
        "again in the backward pass. `block_bytes` is all that one block saves, its input included."
    ),
    difficulty=2,
    hints=(
        "Stand in the middle of the backward pass: what waits, and what has just been computed again?",
        (
            "The inputs of all blocks wait; one block has all it saves, and its own input is among both: "
            "count it once."
        ),
    ),
    parameters=("layers", "input_bytes", "block_bytes"),
    cases=_checkpoint_cases,
    reference=_checkpointed,
    mistakes=(
        Mistake("no recomputation", lambda L, i, b: L * i,
                "While a block goes backward, its own activations have to exist again."),
        Mistake("all blocks", lambda L, i, b: L * b, "That is the memory without checkpointing."),
        Mistake("all blocks and inputs", lambda L, i, b: L * (i + b),
                "Blocks are computed again one at a time, and freed before the next."),
        Mistake("input twice", lambda L, i, b: L * i + b,
                "Nearly: the block's own input is among the inputs that were kept, and among what it saves."),
        Mistake("inputs of the others forgotten", lambda L, i, b: b,
                "The blocks below still wait for their backward pass: what do they keep meanwhile?"),
    ),
)  # fmt: skip

# -- 1.7


def _bits(bits: int, block: int, scale_bits: int, second_block: int, second_bits: int) -> float:
    second = second_bits / (block * second_block) if second_block else 0.0
    return bits + scale_bits / block + second


def _bits_cases(rng: np.random.Generator) -> Sequence[Case]:
    bits, block, second = _integers(rng, (2, 8), (16, 256), (64, 512))
    return [
        Case("spread a block's scale over its elements", (4, 64, 32, 0, 0)),
        Case("spread a scale of scales over both blocks", (4, 64, 8, 256, 32)),
        Case("be right for other sizes", (bits, block, 8, second, 32)),
        Case("be right for other sizes without a second level", (bits, block, 16, 0, 0)),
    ]


BITS = Exercise(
    id="1.7",
    title="Bits a quantised parameter takes",
    text="Bits a parameter with one scale a block; if second_block > 0, scales share scales of their own.",
    difficulty=2,
    hints=(
        "Ask of each stored number how many parameters share it.",
        (
            "A block's scale is shared by `block` parameters; a scale of scales by `second_block` such "
            "scales, so by block × second_block."
        ),
    ),
    parameters=("bits", "block", "scale_bits", "second_block", "second_bits"),
    cases=_bits_cases,
    reference=_bits,
    mistakes=(
        Mistake("no scales", lambda b, k, s, k2, s2: float(b),
                "Each block stores a scale: how much of it falls on one parameter?"),
        Mistake("no second level", lambda b, k, s, k2, s2: b + s / k,
                "The scales of the scales take room too, if little."),
        Mistake("second level over one block", lambda b, k, s, k2, s2: b + s / k + (s2 / k2 if k2 else 0),
                "A second-level scale serves second_block scales, and each of those `block` parameters."),
        Mistake("whole scale", lambda b, k, s, k2, s2: float(b + s),
                "A scale is shared by all parameters of its block."),
        Mistake("bytes", lambda b, k, s, k2, s2: _bits(b, k, s, k2, s2) / 8,
                "Bits are asked for, not bytes."),
    ),
)  # fmt: skip

EXERCISES = (CACHE, ADAM, SFT_BYTES, LORA, BATCH, CHECKPOINT, BITS)
