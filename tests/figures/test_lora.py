"""Chapter 2's pictures: the curve is the one given; the explorer says what the library counts."""

import pytest

from course_lib.adapters import ALL_LINEAR, LoRA
from course_lib.catalog import architecture
from course_lib.figures import against_rank, against_weight, explore_lora, lora_explorer


def test_values_stand_at_their_ranks():
    (axes,) = against_rank({"a": ([0, 1, 8], [0.1, 0.2, 0.9])}, "share", levels={"all": 1.0}).axes
    assert list(axes.lines[0].get_xdata()) == [0, 1, 8]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "8"]
    assert list(axes.lines[1].get_ydata()) == [1.0, 1.0]


def test_every_task_has_its_curve_against_the_weight():
    (axes,) = against_weight([0, 1], {"code": [0.9, 0.0], "math": [0.1, 0.8]}, "w").axes
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {
        "code": [0.9, 0.0], "math": [0.1, 0.8]
    }  # fmt: skip


@pytest.mark.parametrize("targets", [("q", "v"), ALL_LINEAR])
def test_the_explorer_counts_as_the_library(targets):
    found, said = explore_lora("llama-2-7b", 8, targets)
    trained = LoRA(8, targets=targets).trainable_parameters(architecture("llama-2-7b"))
    assert sum(found.values()) == trained
    assert said.startswith(f"{trained:,} trainable parameters")
    assert set(found) == set(targets)


def test_the_explorer_redraws_and_survives_an_empty_choice():
    explorer = lora_explorer()
    controls, picture, sentence = explorer.children
    left, targets = controls.children
    _, rank = left.children
    before = picture.value, sentence.value
    rank.value = 64
    assert picture.value[:4] == b"\x89PNG"
    assert (picture.value, sentence.value) != before
    targets.value = ()
    assert "at least one" in sentence.value
