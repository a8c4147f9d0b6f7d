"""Kernels in Triton's interpreter: `make test` runs this folder in a process with TRITON_INTERPRET=1."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from course_lib.kernels.language import INTERPRETED
from tests.kernels.bf16 import make_exact
from tests.kernels.grids import refuse_impossible_grids

if INTERPRETED:
    make_exact()
    refuse_impossible_grids()
else:  # one process, one mode: here kernels would be compiled for a GPU
    collect_ignore = [p.name for p in Path(__file__).parent.glob("test_*.py") if p.stem != "test_available"]

GUARD = 64  # numbers on each side of an output


@pytest.fixture
def guarded(monkeypatch):
    """Outputs lie between guards, and are full of NaN (or 165) before the kernel writes them."""

    @contextmanager
    def watch():
        plain, made = torch.empty, []

        def empty(*size, dtype=None, device=None):
            shape = torch.Size(size[0]) if size and not isinstance(size[0], int) else torch.Size(size)
            whole = plain(shape.numel() + 2 * GUARD, dtype=dtype or torch.float32)
            whole.fill_(float("nan") if whole.dtype.is_floating_point else 165)
            made.append((whole, whole.clone(), shape.numel()))
            return whole[GUARD : GUARD + shape.numel()].view(shape)

        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", empty)
            patch.setattr(torch, "empty_like", lambda t, **_: empty(t.shape, dtype=t.dtype))
            yield
        assert made, "nothing was written to memory that the guards watch"
        for whole, before, n in made:
            for part in (slice(0, GUARD), slice(GUARD + n, None)):
                assert torch.equal(whole[part].nan_to_num(7.0), before[part].nan_to_num(7.0)), "out of bounds"
            if whole.dtype.is_floating_point:
                assert not whole[GUARD : GUARD + n].isnan().any(), "a number was left unwritten"

    return watch
