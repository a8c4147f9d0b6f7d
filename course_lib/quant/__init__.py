"""4-bit NormalFloat with double quantisation, and linear layers that keep their weight in it."""

from course_lib.quant.adamw import AdamW8bit
from course_lib.quant.blockwise import dequantize_blockwise, quantize_blockwise
from course_lib.quant.codes import dynamic_code, fp4_code, int4_code, nf4_code, unsigned_dynamic_code
from course_lib.quant.formats import FORMATS, FormatError, error_table, round_trip
from course_lib.quant.linear import NF4Linear, quantize_model
from course_lib.quant.nf4 import NF4Tensor, dequantize, quantize_nf4
from course_lib.quant.paged import PagedAdamW

__all__ = [
    "FORMATS",
    "AdamW8bit",
    "FormatError",
    "NF4Linear",
    "NF4Tensor",
    "PagedAdamW",
    "dequantize",
    "dequantize_blockwise",
    "dynamic_code",
    "error_table",
    "fp4_code",
    "int4_code",
    "nf4_code",
    "quantize_blockwise",
    "quantize_model",
    "quantize_nf4",
    "round_trip",
    "unsigned_dynamic_code",
]
