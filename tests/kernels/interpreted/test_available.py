"""Where there is no Triton, that is said, and nothing else of this folder runs."""

import pytest

from course_lib.kernels.language import INTERPRETED


def test_the_interpreter_runs():
    pytest.importorskip("triton", reason="Triton is made for Linux only: its interpreter tests nothing here")
    if not INTERPRETED:
        pytest.skip("kernels are interpreted in a process of its own: TRITON_INTERPRET=1, see the Makefile")
