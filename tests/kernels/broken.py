"""Kernels that are wrong in the ways that kernels usually are, to see that a gate catches each."""

from course_lib.kernels.language import jit, tl


@jit
def wrong_mask(x, out, n, TILE: tl.constexpr):
    """Writes a whole tile, also past the end."""
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    value = tl.load(x + at, mask=at < n, other=0.0)
    tl.store(out + at, 2 * value, mask=at < n + 1)


@jit
def narrow_arithmetic(x, out, n, TILE: tl.constexpr):
    """Sums in the type of x instead of fp32."""
    total = tl.zeros((TILE,), x.dtype.element_ty)
    for begin in range(0, n, TILE):
        total += tl.load(x + begin + tl.arange(0, TILE), mask=begin + tl.arange(0, TILE) < n, other=0.0)
    tl.store(out, tl.sum(total, axis=0))


@jit
def thin_dot(a, b, out, M: tl.constexpr, R: tl.constexpr):
    """Multiplies over r = 8 columns without padding them."""
    m, r = tl.arange(0, M), tl.arange(0, R)
    left = tl.load(a + m[:, None] * R + r[None, :])
    right = tl.load(b + m[:, None] * R + r[None, :])
    tl.store(out + m[:, None] * M + m[None, :], tl.dot(left, tl.trans(right)))


@jit
def too_much_shared(a, b, out, k: tl.constexpr, M: tl.constexpr, K: tl.constexpr):
    """Tiles of 128 × 256 on both sides, three of them on their way at a time: 300 KB and more."""
    m, c = tl.arange(0, M), tl.arange(0, K)
    total = tl.zeros((M, M), tl.float32)
    for begin in range(0, k, K):
        left = tl.load(a + m[:, None] * k + begin + c[None, :])
        right = tl.load(b + m[:, None] * k + begin + c[None, :])
        total = tl.dot(left, tl.trans(right), total)
    tl.store(out + m[:, None] * M + m[None, :], total)
