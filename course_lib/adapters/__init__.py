"""Parameter-efficient adapters behind one protocol: attach, switch, merge, combine, save, detach."""

from course_lib.adapters.attach import Handle, activate, active_adapters, attach, attached, is_merged
from course_lib.adapters.base import ALL_LINEAR, Adapter, Spec
from course_lib.adapters.combine import Combination, combine
from course_lib.adapters.dora import DoRA
from course_lib.adapters.files import load_adapter, save_adapter
from course_lib.adapters.lora import LoRA
from course_lib.adapters.lora_xs import LoRAXS
from course_lib.adapters.merging import merge, unmerge
from course_lib.adapters.pissa import MiLoRA, PiSSA
from course_lib.adapters.quantized import MergeReport, merge_quantized, quantize_rest
from course_lib.adapters.summary import Summary, summary
from course_lib.adapters.svf import SVF
from course_lib.adapters.svft import SVFT

__all__ = [
    "ALL_LINEAR",
    "SVF",
    "SVFT",
    "Adapter",
    "Combination",
    "DoRA",
    "Handle",
    "LoRA",
    "LoRAXS",
    "MergeReport",
    "MiLoRA",
    "PiSSA",
    "Spec",
    "Summary",
    "activate",
    "active_adapters",
    "attach",
    "attached",
    "combine",
    "is_merged",
    "load_adapter",
    "merge",
    "merge_quantized",
    "quantize_rest",
    "save_adapter",
    "summary",
    "unmerge",
]
