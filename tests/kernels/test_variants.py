"""Variants that are compiled for other arguments: sizes of one, other flags, blocks and ranks."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from course_lib.kernels import OPERATIONS
from course_lib.kernels.compiled import TARGETS, Case, compile_case

pytest.importorskip("triton", reason="Triton is made for Linux only")
OTHER = {"DOUBLE": False, "SPLIT": 1, "RAGGED": False, "GRADIENT": False, "MARGIN": False, "LABEL": False}
CASES = [case for operation in OPERATIONS for case in operation.cases() if "bf16" in case.name]


def variants(case: Case) -> Iterator[tuple[str, Case]]:
    for name, kind in case.signature.items():
        if kind == "i32" and name not in case.multiples:  # Triton compiles a size of 1 as a constant
            signature = case.signature | {name: "constexpr"}
            yield f"{name} = 1", replace(case, signature=signature, constants=case.constants | {name: 1})
    for name, value in OTHER.items():
        if case.constants.get(name, value) != value:
            scales = {"scales": "*fp32"} if name == "DOUBLE" else {}
            constants = case.constants | {name: value}
            yield f"{name} = {value}", replace(case, signature=case.signature | scales, constants=constants)
    if "linear_kernel" in str(case.kernel):
        for name, values in (("BLOCK", (32,)), ("RANK", (0, 64, 128))):
            for value in values:
                yield f"{name} = {value}", replace(case, constants=case.constants | {name: value})


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_the_compiler_meets_at_run_time(case, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = {
        (what, target): made.faults
        for what, variant in variants(case)
        for target in TARGETS
        if (made := compile_case(variant, target)).faults
    }
    assert found == {}
