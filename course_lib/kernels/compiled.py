"""Compile a kernel ahead of time, for a GPU that need not be there, and say what came out.

Registers, spilled bytes, shared memory, whether the tensor cores' wgmma is used, seconds; ``faults`` holds
the limits.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_lib.kernels.language import INTERPRETED, triton

TARGETS = (80, 90)  # A100 and H100
SHARED_LIMIT = {80: 166_912, 90: 232_448}  # bytes a block may have
SECONDS_LIMIT = 10.0
# in Triton's own intermediate language: `arith.addf %a, %b : tensor<64xbf16>`
_NARROW = re.compile(r"(?:arith\.(?:add|sub|mul|div)f|math\.\w+) [^\n]*: [^\n]*(?:[x ]|\b)b?f16")


@dataclass(frozen=True)
class Case:
    """A kernel as it is launched: types of its arguments, constants, warps."""

    name: str
    kernel: Any
    signature: dict[str, str]  # "*fp32", "i32", … or "constexpr"
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3
    wgmma: bool = False  # it must use the matrix units of sm_90
    fusion: bool = True  # multiply and add may be rounded once
    multiples: tuple[str, ...] = ()  # integers that are multiples of 16, which Triton looks at in a launch


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a case."""

    name: str
    target: int
    registers: int
    spilled: int  # bytes of stack and local memory
    shared: int  # bytes
    wgmma: bool
    narrow: bool  # something but a matrix product is computed in 16 bits
    seconds: float
    faults: list[str] = field(default_factory=list)


def compile_case(case: Case, target: int) -> Compiled:
    """Compile ``case`` for a compute capability; needs no driver and no GPU."""
    if triton is None or INTERPRETED:
        raise RuntimeError("compiling needs Triton, and a process without TRITON_INTERPRET")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(case.signature)
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if case.signature[name][0] == "*" or name in case.multiples
    }
    constants = {(names.index(name),): value for name, value in case.constants.items()}
    source = ASTSource(case.kernel, case.signature, constants, aligned)
    options = {"num_warps": case.warps, "num_stages": case.stages, "enable_fp_fusion": case.fusion}
    begin = _processor_seconds()
    made = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    seconds = _processor_seconds() - begin
    registers, spilled = _resources(made.asm["cubin"])
    wgmma, narrow = "wgmma" in made.asm["ptx"], _NARROW.search(made.asm["ttir"]) is not None
    result = Compiled(case.name, target, registers, spilled, made.metadata.shared, wgmma, narrow, seconds)
    result.faults.extend(faults(case, result))
    return result


def faults(case: Case, made: Compiled) -> Iterator[str]:
    """Why a compiled kernel would not run, or not run fast."""
    if made.spilled:
        yield f"{made.spilled} bytes are spilled to memory"
    if made.shared > SHARED_LIMIT[made.target]:
        yield f"{made.shared} bytes of shared memory, sm_{made.target} has {SHARED_LIMIT[made.target]}"
    if case.wgmma and made.target == 90 and not made.wgmma:
        yield "no wgmma: the matrix units of sm_90 are not used"
    if made.narrow:
        yield "arithmetic in 16 bits: load, widen to fp32, compute, round once at the store"
    if made.seconds > SECONDS_LIMIT:
        yield f"{made.seconds:.1f} s to compile, at most {SECONDS_LIMIT:.0f} are allowed"


def _processor_seconds() -> float:
    """Of this process and of those it waited for: a busy machine does not make a kernel slow to compile."""
    return sum(os.times()[:4])


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers a thread, and bytes of stack and local memory, as the compiler's own tool tells them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", shown.stdout)}
    return found["REG"], found["STACK"] + found["LOCAL"]
