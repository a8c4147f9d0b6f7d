"""Memory: bytes predicted from a configuration, and bytes measured in a real step."""

from course_lib.memory.activations import Block, Saved, blocks
from course_lib.memory.measure import measure
from course_lib.memory.predict import predict
from course_lib.memory.qlora import AccountLine, qlora_account
from course_lib.memory.report import CATEGORIES, GB, MemoryReport
from course_lib.memory.static import DTYPES, OPTIMIZERS, QUANTIZATIONS

__all__ = [
    "CATEGORIES",
    "DTYPES",
    "GB",
    "OPTIMIZERS",
    "QUANTIZATIONS",
    "AccountLine",
    "Block",
    "MemoryReport",
    "Saved",
    "blocks",
    "measure",
    "predict",
    "qlora_account",
]
