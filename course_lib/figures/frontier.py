"""Accuracy against trainable parameters, with the spread of seeds: what an adapter's size buys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from course_lib.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY, course_style, note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = "osD^vP*Xh<"
_HUES = (BLUE, SKY, ORANGE, RED, GREEN, PURPLE, GREY, "#7A5C00", "#6A3D9A", INK)


class Point(NamedTuple):
    """One method on the frontier."""

    method: str
    parameters: int
    accuracies: Sequence[float]  # one a seed, between 0 and 1


def frontier(
    points: Sequence[Point], full: Point | None = None, title: str = "", small: str = "",
    ylabel: str = "exact match, %",
) -> Figure:  # fmt: skip
    """Accuracy against trainable parameters (logarithmic): a mark a method, a line from its worst to its best
    seed; ``full`` as a horizontal line. Methods of one size are drawn side by side.
    """
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 4.2))
        families = list(dict.fromkeys(_family(point.method) for point in points))
        marks, colours = dict(zip(families, _MARKS, strict=False)), dict(zip(families, _HUES, strict=False))
        places = _side_by_side(points)
        for point in points:
            family, values = _family(point.method), 100 * np.asarray(point.accuracies)
            place = places[point.method]
            axes.vlines(place, values.min(), values.max(), color=colours[family], linewidth=1)
            axes.plot(place, values.mean(), marks[family], color=colours[family], markersize=6)
        for size, place, level in _size_labels(points):
            axes.annotate(size, (place, 100 * level), (0, -6), textcoords="offset points", fontsize=7.5,
                          color=INK, ha="center", va="top")  # fmt: skip
        for family in families:
            axes.plot([], [], marks[family], color=colours[family], label=family)
        if full is not None:
            level = 100 * float(np.mean(full.accuracies))
            axes.axhline(level, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.annotate(
                f"{full.method}: {full.parameters:,}", (0.01, level), (0, 3), ("axes fraction", "data"),
                textcoords="offset points", fontsize=8, color=INK,
            )  # fmt: skip
        axes.set(xscale="log", xlabel="trainable parameters", ylabel=ylabel, title=title)
        axes.margins(y=0.08)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
        if small:
            note(axes, small)
        plt.close(figure)
    return figure


def _side_by_side(points: Sequence[Point]) -> dict[str, float]:
    """Where each method stands: at its parameters, or a little beside them where others have as many."""
    places = {}
    for point in points:
        equal = [other.method for other in points if other.parameters == point.parameters]
        places[point.method] = point.parameters * 1.08 ** (equal.index(point.method) - (len(equal) - 1) / 2)
    return places


def _size_labels(points: Sequence[Point]) -> list[tuple[str, float, float]]:
    """("r=4", place, lowest accuracy): one label for all neighbours of one rank or width on one model."""
    groups: list[tuple[tuple[str, str], list[Point]]] = []
    for point in sorted(points, key=lambda point: point.parameters):
        family = _family(point.method)
        size, model = point.method.removeprefix(family).strip(" ,"), family.rpartition(",")[0]
        alike = [group for kind, group in groups if kind == (size, model)]
        if alike and point.parameters < 1.3 * alike[-1][0].parameters:
            alike[-1].append(point)
        elif size:
            groups.append(((size, model), [point]))
    return [
        (size, float(np.exp(np.mean([np.log(point.parameters) for point in group]))),
         min(min(point.accuracies) for point in group))
        for (size, _), group in groups
    ]  # fmt: skip


def _family(method: str) -> str:
    """ "SVFT banded d=4" → "SVFT banded"."""
    return method.split(" r=")[0].split(" d=")[0]
