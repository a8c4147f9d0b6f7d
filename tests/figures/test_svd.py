"""Chapter 3's pictures: what is drawn is what was given; the explorer says what the library counts."""

import numpy as np
import pytest

from course_lib.adapters import SVFT
from course_lib.catalog import architecture
from course_lib.figures import Point, bands, decay, explore_method, frontier, patterns, spectrum, svd_explorer


def test_a_spectrum_falls_from_one_and_its_energy_rises_to_one():
    figure = spectrum({"a": np.diag([4.0, 2.0, 1.0]), "b": np.eye(3)}, rank=2)
    values, energy = (axes.lines[0].get_ydata() for axes in figure.axes)
    assert np.allclose(values, [1, 0.5, 0.25])
    assert np.allclose(energy, np.cumsum([16, 4, 1]) / 21)
    assert list(figure.axes[0].lines[1].get_ydata()) == [1, 1, 1]


def test_patterns_darken_the_trained_cells_alone():
    cells = np.array([[0, 1, 2], [2, 1, 0]])
    (axes,) = patterns({"corner": cells}, 3).axes
    assert np.array_equal(axes.images[0].get_array(), np.eye(3)[::-1])
    assert "3 cells" in axes.get_title()


def test_bands_go_from_the_lowest_to_the_highest_seed():
    (axes,) = bands({"a": np.array([[1.0, 2, 3, 4], [3, 4, 5, 6]])}, smooth=2).axes
    assert np.allclose(axes.lines[0].get_ydata(), [2.5, 3.5, 4.5])
    corners = axes.collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (1.5, 5.5)


def test_decay_leaves_zeros_out():
    (axes,) = decay({"a": [1.0, 0.1, 0.0]}, "error").axes
    assert list(axes.lines[0].get_xdata()) == [0, 1]
    assert axes.get_yscale() == "log"


def test_the_frontier_shows_means_in_per_cent():
    points = [Point("LoRA r=1", 100, [0.1, 0.3]), Point("LoRA r=2", 200, [0.5]), Point("SVF", 10, [0.2])]
    (axes,) = frontier(points, Point("full", 10**6, [0.9])).axes
    marks = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert [float(line.get_ydata()[0]) for line in marks] == pytest.approx([20, 50, 20])
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"LoRA", "SVF"}


def test_methods_of_one_size_stand_side_by_side_under_one_label():
    same = [Point(f"{name} r=4", 1000, [0.5, 0.6]) for name in ("LoRA", "PiSSA", "MiLoRA")]
    (axes,) = frontier([*same, Point("LoRA r=16", 4000, [0.7])]).axes
    places = sorted(float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1)
    assert places[:3] == pytest.approx([1000 / 1.08, 1000, 1080])
    assert [text.get_text() for text in axes.texts] == ["r=4", "r=16"]


@pytest.mark.parametrize(
    "method", ["PiSSA", "MiLoRA", "LoRA-XS", "SVF", "SVFT plain", "SVFT banded", "SVFT random"]
)
def test_the_explorer_redraws_for_every_method(method):
    explorer = svd_explorer()
    controls, picture, sentence = explorer.children
    before = picture.value
    model, chosen, size = controls.children
    size.value = 5
    chosen.value = method
    spec, said = explore_method(model.value, method, 5)
    assert sentence.value == said
    assert f"{spec.trainable_parameters(architecture(model.value)):,}" in said
    assert picture.value[:4] == b"\x89PNG"
    assert method == "SVFT banded" or picture.value != before
    assert size.disabled == (method in ("SVF", "SVFT plain"))


def test_the_explorer_s_band_is_the_table_s():
    spec, said = explore_method("gemma-2b", "SVFT banded", 8)
    assert spec == SVFT("banded", 8)
    assert said.startswith("3,281,040 ")
