"""Triton's interpreter made exact in bf16, for tests alone.

It keeps bf16 as 16-bit integers: its casts cut bits off instead of rounding, and its dot multiplies the
integers. Both are replaced here by the arithmetic of the hardware.
"""

import numpy as np


def widened(bits: np.ndarray) -> np.ndarray:
    """bf16 in 16-bit integers to fp32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """fp32 to bf16 in 16-bit integers, to nearest and to even; a NaN stays one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    up = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)
    return np.where(np.isnan(values), np.uint32(0x7FC0), up >> 16).astype(np.uint16)


def make_exact() -> None:
    """Replace casts and dots of the interpreter's builder."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain_cast, plain_dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def cast(self, source, kind):
        before, after = source.dtype.scalar, kind.scalar
        if before == tl.bfloat16:
            source = TensorHandle(widened(source.data), tl.float32)
            return source if after == tl.float32 else plain_cast(self, source, kind)
        if after == tl.bfloat16:
            return TensorHandle(rounded(source.data.astype(np.float32)), tl.bfloat16)
        return plain_cast(self, source, kind)

    def dot(self, a, b, d, *rest):
        a, b = (TensorHandle(widened(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x
                for x in (a, b))  # fmt: skip
        return plain_dot(self, a, b, d, *rest)

    InterpreterBuilder.cast_impl = cast
    InterpreterBuilder.create_fp_ext = cast
    InterpreterBuilder.create_fp_trunc = cast
    InterpreterBuilder.create_dot = dot
