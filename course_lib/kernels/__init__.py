"""GPU kernels in Triton, one file an operation, each beside the PyTorch code that says what it computes.

On a CUDA device with Triton the kernel runs; anywhere else the reference does.
"""

from importlib import import_module

from course_lib.kernels.linear_cross_entropy import linear_cross_entropy
from course_lib.kernels.nf4_dequantize import nf4_dequantize
from course_lib.kernels.nf4_linear import nf4_linear
from course_lib.kernels.nf4_quantize import nf4_quantize

__all__ = ["linear_cross_entropy", "nf4_dequantize", "nf4_linear", "nf4_quantize"]

OPERATIONS = tuple(import_module(f"course_lib.kernels.{name}") for name in __all__)
