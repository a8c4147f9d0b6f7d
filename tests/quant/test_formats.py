"""Four-bit formats side by side: the published errors, every shape, references in float64, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.catalog import published
from course_lib.quant import FORMATS, dequantize, error_table, fp4_code, int4_code, quantize_nf4, round_trip


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


VIEWS = {
    "ragged": drawn(5, 27),
    "shorter than a block": drawn(3),
    "transposed": drawn(70, 48).T,
    "every other column": drawn(48, 70)[:, ::2],
    "expanded": drawn(70, 1).expand(70, 9),
    "permuted": drawn(3, 5, 7, 11).permute(0, 2, 3, 1),
    "empty": drawn(0, 5),
    "empty rows": drawn(5, 0),
    "one number": torch.tensor(0.7),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("view", VIEWS)
def test_any_view_is_read_as_its_copy(view, format):
    w = VIEWS[view]
    back = round_trip(w, format)
    assert (back.shape, back.dtype) == (w.shape, w.dtype)
    assert torch.equal(back, round_trip(w.clone(memory_format=torch.contiguous_format), format))
    assert torch.equal(back.reshape(-1), round_trip(w.reshape(-1), format))


@pytest.mark.parametrize("view", VIEWS)
def test_nf4_tensors_of_any_view(view):
    w = VIEWS[view]
    q = quantize_nf4(w)
    assert q.packed.numel() == -(-w.numel() // 2)
    assert q.scales.numel() == -(-w.numel() // 64)
    assert dequantize(q).shape == w.shape
    assert q.bits_per_parameter >= 0


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_with_its_place(format, dtype, value):
    w = drawn(9, 70).to(dtype)
    w[7, 3] = w[8, 69] = value
    with pytest.raises(ValueError, match=r"2 of 630 .* the first at \(7, 3\)"):
        round_trip(w, format)
    with pytest.raises(ValueError, match=r"the first at \(3, 7\)"):
        round_trip(w.T, format)


@pytest.mark.parametrize("format", FORMATS)
def test_a_float64_that_fp32_cannot_hold_is_refused(format):
    w = drawn(4, 64).double()
    w[1, 2] = 1e39
    with pytest.raises(ValueError, match=r"not finite in fp32, the first at \(1, 2\)"):
        round_trip(w, format)


def test_unknown_formats_types_and_blocks_are_refused():
    with pytest.raises(ValueError, match="FP4, INT4 symmetric"):
        round_trip(drawn(64), "INT3")
    for format in FORMATS:
        with pytest.raises(TypeError, match="int64"):
            round_trip(torch.zeros(64, dtype=torch.long), format)
        with pytest.raises(ValueError, match="power of two"):
            round_trip(drawn(64), format, block_size=100)


def test_errors_on_normal_numbers_are_the_published_ones():
    """And the asymmetric integers' squared error is the lowest, NF4's absolute one."""
    found = error_table(drawn(1 << 20, seed=1))
    for name, error in found.items():
        row = published("nf4/errors").where(format=name)
        assert error.mean_absolute == pytest.approx(row["mean_absolute"], rel=0.01)
        assert error.mean_squared == pytest.approx(row["mean_squared"], rel=0.01)
    assert min(found, key=lambda name: found[name].mean_absolute) == "NF4"
    assert min(found, key=lambda name: found[name].mean_squared) == "INT4 asymmetric"
    assert [round(error.bits, 2) for error in found.values()] == [4.5, 4.13, 4.5, 4.5, 5.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.sampled_from([32, 64]), st.integers(0, 2**31), st.floats(-30, 30))
def test_no_number_is_off_by_more_than_half_a_step(n, block, seed, shift):
    """Block by block in float64: the asymmetric grid ends at the block's ends, the others at its largest."""
    w = drawn(n, seed=seed) + shift
    for format, code in (("FP4", fp4_code()), ("INT4 symmetric", int4_code())):
        step = float(code.diff().max())
        for part, back in zip(w.split(block), round_trip(w, format, block).split(block), strict=True):
            limit = (step / 2 + 1e-6) * part.abs().max()
            assert bool((part - back).abs().le(limit).all())
    for part, back in zip(w.split(block), round_trip(w, "INT4 asymmetric", block).split(block), strict=True):
        low, high = float(part.min()), float(part.max())
        grid = low + (high - low) / 15 * torch.arange(16, dtype=torch.float64)
        nearest = (part.double()[:, None] - grid).abs().amin(1)
        assert torch.allclose(
            (part - back).double().abs(), nearest, atol=1e-6 * max(abs(low), abs(high)) + 1e-7
        )


@pytest.mark.parametrize("format", FORMATS)
def test_zero_stays_zero_and_constants_stay_constant(format):
    assert torch.equal(round_trip(torch.zeros(3, 50), format), torch.zeros(3, 50))
    back = round_trip(torch.full((128,), 0.3), format)
    assert torch.allclose(back, torch.full((128,), 0.3), rtol=1e-6 if "double" not in format else 0.05)


@pytest.mark.peer
@pytest.mark.parametrize("block", [64, 128])
def test_fp4_is_bitsandbytes_s(block):
    theirs = pytest.importorskip("bitsandbytes.functional")
    w = drawn(300, 256)
    packed, state = theirs.quantize_4bit(w, blocksize=block, quant_type="fp4")
    assert torch.equal(theirs.dequantize_4bit(packed, state), round_trip(w, "FP4", block))
