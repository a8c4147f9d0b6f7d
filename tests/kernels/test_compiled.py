"""Every kernel compiles for GPUs that are not here, under two Tritons, and stays within what they have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.kernels import OPERATIONS
from course_lib.kernels.compiled import Case, compile_case
from tests.kernels.broken import narrow_arithmetic, thin_dot, too_much_shared

triton = pytest.importorskip("triton", reason="Triton is made for Linux only")
OLDER = Path(sys.prefix) / "triton-3.6.0"  # tools/environment.py puts it there
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("older", [False, True], ids=["installed", "3.6.0"])
def test_every_kernel_compiles(older, tmp_path):
    if older and not OLDER.exists():
        pytest.skip(f"no Triton 3.6.0 in {OLDER}: `make test` installs it")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)  # so that everything is compiled, and timed
    environment["PYTHONPATH"] = os.pathsep.join([str(OLDER)] * older + [str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-m", "course_lib.kernels"], env=environment, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode in (0, 1), run.stderr
    assert lines[0]["triton"] == ("3.6.0" if older else triton.__version__)
    assert {line["name"]: line["faults"] for line in lines[1:] if line["faults"]} == {}
    assert len(lines) - 1 == 2 * sum(len(operation.cases()) for operation in OPERATIONS)
    assert run.returncode == 0


def test_every_kernel_has_a_case():
    """A kernel that is launched is also compiled here."""
    from triton.runtime.jit import JITFunction

    for operation in OPERATIONS:
        kernels = {
            v for k, v in vars(operation).items() if k.endswith("_kernel") and isinstance(v, JITFunction)
        }
        assert {case.kernel for case in operation.cases()} == kernels, operation.__name__
        for case in operation.cases():
            assert list(case.signature) == case.kernel.arg_names
            assert case.constants.keys() == {k for k, v in case.signature.items() if v == "constexpr"}


POINTERS = {"a": "*bf16", "b": "*bf16", "out": "*fp32"}


def test_a_dot_over_eight_columns_is_caught():
    case = Case("thin", thin_dot, {**POINTERS, "M": "constexpr", "R": "constexpr"}, {"M": 64, "R": 8})
    with pytest.raises(triton.CompilationError, match="K >= 16"):
        compile_case(case, 90)


def test_too_much_shared_memory_is_caught():
    signature = {**POINTERS, **dict.fromkeys(("k", "M", "K"), "constexpr")}
    constants = {"k": 4096, "M": 128, "K": 256}
    case = Case("wide", too_much_shared, signature, constants, warps=8, stages=4)
    made = compile_case(case, 90)
    assert made.shared > 300_000
    assert any("shared memory" in fault for fault in made.faults)


def test_arithmetic_in_bf16_is_caught():
    signature = {"x": "*bf16", "out": "*bf16", "n": "i32", "TILE": "constexpr"}
    made = compile_case(Case("narrow", narrow_arithmetic, signature, {"TILE": 256}), 90)
    assert any("16 bits" in fault for fault in made.faults)


def test_missing_wgmma_is_caught():
    signature = {**POINTERS, "M": "constexpr", "R": "constexpr"}
    made = compile_case(Case("small", thin_dot, signature, {"M": 16, "R": 16}, wgmma=True), 90)
    assert any("wgmma" in fault for fault in made.faults)
