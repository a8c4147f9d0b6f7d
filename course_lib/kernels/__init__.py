"""GPU kernels in Triton, one file an operation, each beside the PyTorch code that says what it computes.

On a CUDA device with Triton the kernel runs; anywhere else the reference does.
"""

from importlib import import_module

from course_lib.kernels.adamw8bit import adamw8bit
from course_lib.kernels.linear_cross_entropy import linear_cross_entropy
from course_lib.kernels.lora_linear import lora_linear
from course_lib.kernels.nf4_dequantize import nf4_dequantize
from course_lib.kernels.nf4_linear import nf4_linear
from course_lib.kernels.nf4_quantize import nf4_quantize
from course_lib.kernels.pairwise_loss import pairwise_loss
from course_lib.kernels.svft_banded import svft_banded
from course_lib.kernels.svft_sparse import svft_sparse

__all__ = [
    "adamw8bit",
    "linear_cross_entropy",
    "lora_linear",
    "nf4_dequantize",
    "nf4_linear",
    "nf4_quantize",
    "pairwise_loss",
    "svft_banded",
    "svft_sparse",
]

OPERATIONS = tuple(import_module(f"course_lib.kernels.{name}") for name in __all__)
