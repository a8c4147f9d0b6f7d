"""Every kernel compiles for GPUs that are not here, under two Tritons, and stays within what they have."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from course_lib.kernels import OPERATIONS
from course_lib.kernels.compiled import Case, compile_case
from tests.kernels.broken import narrow_arithmetic, thin_dot, too_much_shared

triton = pytest.importorskip("triton", reason="Triton is made for Linux only")
OLDER = Path(sys.prefix) / "triton-3.6.0"  # tools/environment.py puts it there
ROOT = Path(__file__).resolve().parents[2]


def started(older: bool, cache: Path) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache)  # so that everything is compiled, and timed
    environment["PYTHONPATH"] = os.pathsep.join([str(OLDER)] * older + [str(ROOT)])
    command = [sys.executable, "-m", "course_lib.kernels"]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both compilers at once, a core each."""
    made = {
        older: started(older, tmp_path_factory.mktemp("cache"))
        for older in (False, True)[: 1 + OLDER.exists()]
    }
    with ThreadPoolExecutor() as readers:  # both pipes are read as they fill
        output = {older: readers.submit(run.communicate) for older, run in made.items()}
    return {older: (made[older].returncode, *output[older].result()) for older in made}


@pytest.mark.parametrize("older", [False, True], ids=["installed", "3.6.0"])
def test_every_kernel_compiles(older, runs):
    if older and not OLDER.exists():
        pytest.skip(f"no Triton 3.6.0 in {OLDER}: `make test` installs it")
    status, shown, errors = runs[older]
    lines = [json.loads(line) for line in shown.splitlines()]
    assert status in (0, 1), errors
    assert lines[0]["triton"] == ("3.6.0" if older else triton.__version__)
    assert {line["name"]: line["faults"] for line in lines[1:] if line["faults"]} == {}
    assert len(lines) - 1 == 2 * sum(len(operation.cases()) for operation in OPERATIONS)
    assert status == 0


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
