"""Chapter 4's pictures: what is drawn is what was given; the explorer's numbers are the library's."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
import torch

from course_lib.figures import (
    Work,
    against_bits,
    code_usage,
    error_maps,
    error_profile,
    explore_format,
    loss_curves,
    number_lines,
    quant_explorer,
    roofline,
)
from course_lib.figures import quant as module
from course_lib.quant import dequantize, int4_code, nf4_code, quantize_nf4


@pytest.fixture(autouse=True)
def no_screen():
    mpl.use("Agg")
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before, "a figure left its style behind"


def test_number_lines_have_a_stroke_for_every_value():
    codes = {"NF4": nf4_code(), "INT4": int4_code()}
    top, axes = number_lines(codes, np.linspace(-1, 1, 1001)).axes
    strokes = [np.array([part[0, 0] for part in lines.get_segments()]) for lines in axes.collections]
    assert all(np.allclose(found, values) for found, values in zip(strokes, codes.values(), strict=True))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["NF4", "INT4"]
    assert sum(bar.get_height() * bar.get_width() for bar in top.patches) == pytest.approx(1)


def test_usage_is_in_per_cent_and_the_line_is_where_all_are_equal():
    (axes,) = code_usage({"a": np.array([0.1, 0.4, 0.3, 0.2])}).axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([10, 40, 30, 20])
    assert axes.lines[0].get_ydata()[0] == 25


def test_the_profile_is_the_root_of_the_mean_square_in_each_bin():
    (axes,) = error_profile(
        np.array([-0.9, -0.8, 0.5, 1.0]), {"a": np.array([3.0, 4.0, 2.0, 0.0])}, bins=2
    ).axes
    (line,) = axes.lines
    assert line.get_xdata() == pytest.approx([-0.5, 0.5])
    assert line.get_ydata() == pytest.approx([np.sqrt(12.5), np.sqrt(2)])


def test_error_maps_share_a_scale_and_say_how_large_the_error_is():
    weight = np.eye(3)
    pictures = [axes for axes in error_maps(weight, {"a": 0.1 * weight, "b": 0 * weight}).axes if axes.images]
    limits = [axes.images[0].get_clim() for axes in pictures]
    assert limits[1] == limits[2] != limits[0]
    assert [axes.get_title(loc="left") for axes in pictures] == [
        "the weight",
        "a\n10.0% of ‖W‖",
        "b\n0.0% of ‖W‖",
    ]


def test_against_bits_draws_every_point():
    points = [(4.5, 0.01, "64"), (4.25, 0.02, "128")]
    (axes,) = against_bits({"NF4": points}, "error", small="print").axes
    assert [tuple(pair) for pair in zip(*axes.lines[0].get_data(), strict=True)] == [p[:2] for p in points]
    assert {"64", "128", "print"} <= {text.get_text() for text in axes.texts}


def test_loss_curves_count_steps_from_one():
    (axes,) = loss_curves({"a": [3.0, 2.0], "b": [4.0]}, "nats").axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 3], [2, 2]], [[1, 4]]]


def test_work_stands_under_the_roof():
    (axes,) = roofline({"few": Work(10, 10), "many": Work(1e6, 10)}, 1e3, 1e6).axes
    roof, ridge, few, many = axes.lines
    assert np.all(roof.get_ydata() == np.minimum(roof.get_xdata() * 1e3, 1e6))
    assert ridge.get_xdata()[0] == 1e3
    assert (few.get_xdata()[0], few.get_ydata()[0]) == (1, 1e3)
    assert (many.get_xdata()[0], many.get_ydata()[0]) == (1e5, 1e6)


@pytest.mark.parametrize("double_quant", [False, True])
def test_the_explorer_s_nf4_is_the_library_s(double_quant):
    values = np.random.default_rng(0).normal(size=1 << 15).astype(np.float32)
    found = explore_format(values, "NF4", 64, double_quant)
    packed = quantize_nf4(torch.from_numpy(values), double_quant=double_quant)
    assert found.bits == packed.bits_per_parameter
    assert np.array_equal(found.values, dequantize(packed).numpy())


def test_an_asymmetric_grid_reaches_from_the_smallest_to_the_largest():
    values = np.linspace(3, 6, 32)
    found = explore_format(values, "INT4 asymmetric", 32)
    assert found.values == pytest.approx(3 + np.round(np.arange(32) * 15 / 31) * 3 / 15)
    assert found.bits == 4 + 2 * 32 / 32


@pytest.mark.parametrize("draw", module._DRAWS)
def test_no_format_makes_an_error_larger_than_its_step(draw):
    values = module._numbers(draw, 0)
    for form, block in itertools.product(module._CODES, (32, 4096)):
        largest = np.abs(values.reshape(-1, block)).max(axis=1)
        error = np.abs(explore_format(values, form, block).values - values).reshape(-1, block)
        assert np.all(error <= 0.2 * largest[:, None]), form  # half of the widest gap of a code


def test_the_explorer_follows_its_controls():
    controls, picture = quant_explorer().children
    draw, outlier, form, block, double_quant, sentence = controls.children
    assert sentence.value.startswith("NF4, blocks of 64: 4.500 bits")
    assert "Least error here: INT4 asymmetric, with 5.000 bits" in sentence.value
    before = bytes(picture.value)
    double_quant.value = True
    assert "4.127 bits" in sentence.value
    form.value, outlier.value, block.value = "FP4", 60, 4096
    assert sentence.value.startswith("FP4, blocks of 4096: 4.002 bits")
    draw.value = "all positive (normal + 4)"
    assert "Least error here: INT4 asymmetric" in sentence.value
    assert bytes(picture.value)[:4] == b"\x89PNG"
    assert bytes(picture.value) != before
