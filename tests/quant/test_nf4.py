"""NF4: the table, the round trip, bit identity with bitsandbytes, and what is refused."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.catalog import published
from course_lib.quant import (
    dequantize,
    dequantize_blockwise,
    dynamic_code,
    fp4_code,
    int4_code,
    nf4_code,
    quantize_blockwise,
    quantize_nf4,
    unsigned_dynamic_code,
)
from course_lib.quant.blockwise import Nearest, plain_nearest
from course_lib.quant.codes import boundaries

SHAPES = [(64,), (1, 7), (17, 33), (256, 64), (300, 128), (3, 5, 8), (1,)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def drawn(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_codes_are_sorted_from_minus_one_to_one():
    for code, size in ((nf4_code(), 16), (fp4_code(), 16), (int4_code(), 15), (dynamic_code(), 256)):
        assert len(code) == size
        assert bool((code.diff() >= 0).all())
        assert code.max() == 1
        assert 0.0 in code


def test_nf4_s_values_are_normal_quantiles():
    """Each half has steps of equal probability, up to the constant that makes its end 1."""
    code, normal = nf4_code().double(), NormalDist()
    end = normal.inv_cdf(0.9677083)
    for half, count in ((code[7:], 8), (-code[:8].flip(0), 7)):
        probabilities = np.array([normal.cdf(value * end) for value in half.tolist()])
        assert np.allclose(np.diff(probabilities), (0.9677083 - 0.5) / count, atol=1e-6)


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_and_type_come_back_and_errors_are_bounded(shape, dtype, double_quant):
    w = drawn(shape, dtype)
    q = quantize_nf4(w, double_quant=double_quant)
    back = dequantize(q)
    assert (back.shape, back.dtype) == (w.shape, w.dtype)
    widest = float(nf4_code().diff().max()) / 2  # of a block's scale
    # with double quantisation the scale itself is off by up to half a step of its own code
    slack = 0.02 + 0.06 * double_quant
    assert float((back.float() - w.float()).abs().max()) <= (widest + slack) * float(w.float().abs().max())


@pytest.mark.parametrize("double_quant", [False, True])
def test_what_is_on_the_grid_comes_back_exactly(double_quant):
    w = nf4_code().repeat(16)[:, None] * torch.ones(1, 4)  # scale 1 in every block
    w = w.T.contiguous()
    q = quantize_nf4(w, double_quant=double_quant)
    assert torch.equal(dequantize(q), w)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.sampled_from([32, 64, 128]), st.integers(0, 2**31), st.booleans())
def test_quantising_twice_is_quantising_once(n, block, seed, double_quant):
    """Without double quantisation a block's largest number keeps its size, so the grid stays."""
    once = dequantize(quantize_nf4(drawn((n,), seed=seed), block, double_quant=False))
    twice = dequantize(quantize_nf4(once, block, double_quant=False))
    assert torch.equal(once, twice)
    q = quantize_nf4(drawn((n,), seed=seed), block, double_quant)
    assert len(q.packed) == -(-n // 2)
    assert q.scales.numel() == -(-n // block)


def test_views_are_quantised_as_they_are_read():
    w = drawn((48, 64))
    assert torch.equal(dequantize(quantize_nf4(w.T)), dequantize(quantize_nf4(w.T.contiguous())))
    assert torch.equal(dequantize(quantize_nf4(w[::2])), dequantize(quantize_nf4(w[::2].clone())))
    assert dequantize(quantize_nf4(torch.empty(0, 5))).shape == (0, 5)
    assert torch.equal(dequantize(quantize_nf4(torch.zeros(3, 100))), torch.zeros(3, 100))


def test_bits_of_a_parameter_are_the_paper_s():
    w = torch.zeros(4096, 4096)
    assert quantize_nf4(w, double_quant=False).bits_per_parameter == 4.5
    exact = 4 + 8 / 64 + 32 / (64 * 256)
    assert abs(quantize_nf4(w).bits_per_parameter - exact) < 1e-5  # and one offset
    assert round(exact, 3) == 4.127


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_with_its_place(value):
    w = drawn((4, 70))
    w[2, 5] = value
    with pytest.raises(ValueError, match=r"1 of 280 .* \(2, 5\)"):
        quantize_nf4(w)


def test_other_types_and_blocks_are_refused():
    with pytest.raises(TypeError, match="int64"):
        quantize_nf4(torch.zeros(64, dtype=torch.long))
    with pytest.raises(ValueError, match="block_size"):
        quantize_nf4(torch.zeros(64), block_size=48)


def test_errors_on_normal_numbers_are_the_published_ones():
    """NF4, FP4 and symmetric INT4 on N(0, 1), block 64."""
    w = drawn((1 << 20,), seed=1)
    for name, code in (("NF4", nf4_code()), ("FP4", fp4_code()), ("INT4 symmetric", int4_code())):
        indices, scales = quantize_blockwise(w, code, 64)
        error = dequantize_blockwise(indices, scales, code, 64) - w
        row = published("nf4/errors").where(format=name)
        assert float(error.abs().mean()) == pytest.approx(row["mean_absolute"], rel=0.01)
        assert float(error.square().mean()) == pytest.approx(row["mean_squared"], rel=0.02)


@pytest.mark.peer
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES[1:5], (1024, 512)])
def test_bit_for_bit_as_bitsandbytes(shape, dtype, double_quant):
    theirs = pytest.importorskip("bitsandbytes.functional")
    for seed in range(3):
        w = drawn(shape, dtype, seed) * 0.02
        packed, state = theirs.quantize_4bit(
            w, blocksize=64, quant_type="nf4", compress_statistics=double_quant
        )
        ours = quantize_nf4(w, double_quant=double_quant)
        assert torch.equal(packed.view(-1), ours.packed)
        assert torch.equal(state.absmax, ours.scales)
        if double_quant:
            assert torch.equal(state.state2.absmax, ours.second)
            assert torch.equal(state.offset, ours.offset)
        for wanted in DTYPES:
            state.dtype = wanted
            assert torch.equal(theirs.dequantize_4bit(packed, state), dequantize(ours, wanted))


@pytest.mark.peer
def test_codes_are_bitsandbytes_s():
    theirs = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(nf4_code(), theirs.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(fp4_code(), theirs.get_4bit_type("fp4", device="cpu").sort().values)
    assert torch.equal(dynamic_code(), theirs.create_dynamic_map().sort().values)


def test_the_table_finds_what_the_search_finds():
    """At every boundary, beside it, and on a million numbers."""
    for code in (nf4_code(), fp4_code(), int4_code(), dynamic_code(), unsigned_dynamic_code()):
        bounds = boundaries(code)
        ends = torch.tensor([-0.0, 0.0, -1.0, 1.0, -1e-30, 1e-30])
        up, down = (torch.nextafter(bounds, torch.tensor(end)) for end in (2.0, -2.0))
        values = torch.cat([ends, bounds, up, down, drawn((1 << 18,)).clamp(-1, 1), drawn((1 << 18,)) * 1e-4])
        found = torch.empty(len(values), dtype=torch.uint8)
        Nearest(code)(values, found)
        assert torch.equal(found, plain_nearest(values, code))


def test_a_code_too_fine_for_the_table_is_refused():
    with pytest.raises(ValueError, match="too close"):
        Nearest(1 + torch.arange(200) / 1e5)


def test_a_buffer_to_write_to():
    q = quantize_nf4(drawn((33, 64)))
    for dtype in DTYPES:
        out = torch.empty(33, 64, dtype=dtype)
        assert dequantize(q, out=out) is out
        assert torch.equal(out, dequantize(q, dtype))
    with pytest.raises(ValueError, match=r"\(33, 64\)"):
        dequantize(q, out=torch.empty(64, 33))
