"""Chapter 4's pictures: number lines, where errors lie, a layer's error, the roofline, the explorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from course_lib.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, course_style, note, png
from course_lib.quant import (
    dequantize,
    dequantize_blockwise,
    dynamic_code,
    fp4_code,
    int4_code,
    nf4_code,
    quantize_blockwise,
    quantize_nf4,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (RED, ":"), (PURPLE, (0, (5, 1, 1, 1))))
_MARKS = "osD^vP*X"


def number_lines(codes: Mapping[str, Sequence[float]], scaled: np.ndarray, title: str = "") -> Figure:
    """Each code's values as a row of strokes, below a histogram of what is rounded to them: numbers divided
    by their block's largest magnitude.
    """
    with course_style():
        import matplotlib.pyplot as plt

        figure, (top, axes) = plt.subplots(2, 1, figsize=(8.6, 3.6), sharex=True)
        top.hist(np.asarray(scaled), 201, (-1, 1), density=True, color=GREY)
        top.set(yticks=[], title=title)
        top.spines["left"].set_visible(False)
        for row, (values, (colour, _)) in enumerate(zip(codes.values(), _LINES, strict=False)):
            axes.vlines(np.asarray(values), row - 0.38, row + 0.38, color=colour, linewidth=2)
        axes.set(yticks=range(len(codes)), yticklabels=list(codes), xlim=(-1.03, 1.03))
        axes.set_xlabel("number ÷ largest magnitude of its block")
        axes.invert_yaxis()
        plt.close(figure)
    return figure


def code_usage(shares: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """For some codes, the share of all numbers that is rounded to each value; dashed: all equally often."""
    with course_style():
        import matplotlib.pyplot as plt

        figure, row = plt.subplots(1, len(shares), figsize=(8.6, 2.9), sharey=True, squeeze=False)
        for axes, (name, share), (colour, _) in zip(row[0], shares.items(), _LINES, strict=False):
            axes.bar(range(len(share)), 100 * np.asarray(share), 0.8, color=colour)
            axes.axhline(100 / len(share), color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.set(title=name, xlabel="index of the value", xticks=range(0, len(share), 3))
        row[0, 0].set_ylabel("% of the numbers")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        plt.close(figure)
    return figure


def error_profile(
    scaled: np.ndarray, errors: Mapping[str, np.ndarray], title: str = "", bins: int = 60
) -> Figure:
    """Root mean squared error of some formats against where in its block's range −1 … 1 a number lies."""
    places = np.linspace(-1, 1, bins + 1)
    inside = np.clip(np.digitize(np.asarray(scaled), places) - 1, 0, bins - 1)
    count = np.maximum(np.bincount(inside, minlength=bins), 1)
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 3.1))
        for (name, error), (colour, line) in zip(errors.items(), _LINES, strict=False):
            mean = np.bincount(inside, np.asarray(error, dtype=float) ** 2, bins) / count
            middles = (places[:-1] + places[1:]) / 2
            axes.plot(middles, np.sqrt(mean), color=colour, linestyle=line, label=name)
        axes.set(
            xlabel="number ÷ largest magnitude of its block", ylabel="root mean squared error", title=title
        )
        axes.set(xlim=(-1, 1), ylim=(0, None))
        axes.legend(fontsize=9, loc="upper center", ncols=2)
        plt.close(figure)
    return figure


def error_maps(weight: np.ndarray, errors: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """A weight as a picture and, side by side on one colour scale, the errors of some ways to store it; over
    each ‖error‖ / ‖W‖.
    """
    weight = np.asarray(weight)
    found = {name: np.asarray(error) for name, error in errors.items()}
    reach = np.quantile(np.abs(np.stack(list(found.values()))), 0.98)  # so that the many small ones are seen
    with course_style():
        import matplotlib.pyplot as plt

        figure, row = plt.subplots(1, 1 + len(found), figsize=(8.6, 8.6 / (1 + len(found)) + 0.9))
        limits = {"the weight": np.quantile(np.abs(weight), 0.98)} | dict.fromkeys(found, reach)
        for axes, (name, picture) in zip(row, ({"the weight": weight} | found).items(), strict=True):
            limit = limits[name]
            shown = axes.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            size = np.linalg.norm(picture) / np.linalg.norm(weight)
            axes.set_title(name + ("" if picture is weight else f"\n{size:.1%} of ‖W‖"), fontsize=9)
            bar = figure.colorbar(shown, ax=axes, location="bottom", shrink=0.9, pad=0.03)
            bar.ax.tick_params(labelsize=7)
            bar.ax.locator_params(nbins=5)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        plt.close(figure)
    return figure


def against_bits(
    curves: Mapping[str, Sequence[tuple[float, float, str]]], ylabel: str, title: str = "", small: str = ""
) -> Figure:
    """Error against bits a parameter: a line a format, a mark for each (bits, error, what the mark is)."""
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 3.8))
        for (name, points), (colour, line), mark in zip(curves.items(), _LINES, _MARKS, strict=False):
            bits, errors, labels = zip(*points, strict=True)
            axes.plot(bits, errors, mark, linestyle=line, color=colour, markersize=5, label=name)
            for x, y, label in zip(bits, errors, labels, strict=True):
                axes.annotate(label, (x, y), (3, 5), textcoords="offset points", fontsize=7.5, color=colour)
        axes.set(xlabel="bits a parameter, scales included", ylabel=ylabel, title=title)
        axes.legend(fontsize=9)
        if small:
            note(axes, small)
        plt.close(figure)
    return figure


def loss_curves(curves: Mapping[str, Sequence[float]], ylabel: str, title: str = "") -> Figure:
    """One run a line: the loss after each step."""
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 3.0))
        for (name, losses), (colour, line), mark in zip(curves.items(), _LINES, _MARKS, strict=False):
            steps = range(1, len(losses) + 1)
            axes.plot(steps, losses, mark, linestyle=line, color=colour, markersize=3.5, label=name)
        axes.set(xlabel="step", ylabel=ylabel, title=title, ylim=(0, None))
        axes.legend(fontsize=9)
        plt.close(figure)
    return figure


class Work(NamedTuple):
    """What an operation does at the least: arithmetic operations, and bytes to and from memory."""

    operations: float
    bytes: float


def roofline(
    work: Mapping[str, Work], bandwidth: float, arithmetic: float, title: str = "", small: str = ""
) -> Figure:
    """The roof: operations a second that ``bandwidth`` (bytes/s) and ``arithmetic`` (operations/s) allow,
    against operations a byte; every piece of work stands where the roof is over it.
    """
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 3.6))
        places = {name: one.operations / one.bytes for name, one in work.items()}
        ridge = arithmetic / bandwidth
        ends = np.array([min([*places.values(), ridge]) / 3, ridge, max([*places.values(), ridge]) * 3])
        axes.plot(ends, np.minimum(ends * bandwidth, arithmetic), color=INK, linewidth=1.5)
        axes.axvline(ridge, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        for (name, x), (colour, _), mark in zip(places.items(), _LINES * 2, _MARKS, strict=False):
            axes.plot(x, min(x * bandwidth, arithmetic), mark, color=colour, markersize=7, label=name)
        axes.set(xscale="log", yscale="log", xlabel="operations a byte moved", ylabel="operations a second")
        axes.set_title(title)
        axes.annotate(
            f"{ridge:,.0f} operations a byte:\nmemory decides left of it,\narithmetic right of it",
            (ridge, axes.get_ylim()[0]), (6, 8), textcoords="offset points", fontsize=8, color=INK,
        )  # fmt: skip
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
        if small:
            note(axes, small)
        plt.close(figure)
    return figure


# -- the explorer --

_CODES: dict[str, Any] = {
    "NF4": nf4_code, "FP4": fp4_code, "INT4 symmetric": int4_code, "INT4 asymmetric": None,
}  # fmt: skip
_DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails (Student t, 3)": lambda rng, n: rng.standard_t(3, size=n),
    "uniform": lambda rng, n: rng.uniform(-1.7, 1.7, size=n),
    "all positive (normal + 4)": lambda rng, n: rng.normal(size=n) + 4,
}
_NUMBERS = 1 << 16


class Rounded(NamedTuple):
    """Numbers as they come back from a format, and what one of them takes."""

    values: np.ndarray
    bits: float


def explore_format(values: np.ndarray, form: str, block: int, double_quant: bool = False) -> Rounded:
    """``values`` (n,) through one of the explorer's formats, in blocks of ``block`` (which divides n).

    "INT4 asymmetric" spreads 16 values evenly from a block's smallest number to its largest, and stores both
    ends where the others store one scale. ``double_quant``: scales in 8 bits, as QLoRA's.
    """
    numbers = torch.as_tensor(np.asarray(values), dtype=torch.float32)
    if form == "NF4":
        packed = quantize_nf4(numbers, block, double_quant)
        return Rounded(dequantize(packed).numpy(), packed.bits_per_parameter)
    each = 8 / block + 32 / (256 * block) if double_quant else 32 / block
    again = _scales_again if double_quant else (lambda scales: scales)
    if form == "INT4 asymmetric":
        blocks = numbers.view(-1, block)
        low, high = again(blocks.amin(1)), again(blocks.amax(1))
        step = ((high - low) / 15).clamp_min(1e-30)
        back = ((blocks - low[:, None]) / step[:, None]).round().clamp(0, 15) * step[:, None] + low[:, None]
        return Rounded(back.view(-1).numpy(), 4 + 2 * each)
    code = _CODES[form]()
    indices, scales = quantize_blockwise(numbers, code, block)
    return Rounded(dequantize_blockwise(indices, again(scales), code, block).numpy(), 4 + each)


def _scales_again(scales: torch.Tensor) -> torch.Tensor:
    """Scales as they come back from 8 bits."""
    mean = scales.mean()
    indices, second = quantize_blockwise(scales - mean, dynamic_code(), 256)
    return dequantize_blockwise(indices, second, dynamic_code(), 256) + mean


def quant_explorer() -> Any:
    """Controls for the numbers' distribution, outliers, format, block and double quantisation; a picture of
    where the values lie and of every format's error, and a sentence.
    """
    import ipywidgets as widgets

    look = {"style": {"description_width": "110px"}, "layout": widgets.Layout(width="330px")}
    controls = {
        "draw": widgets.Dropdown(options=list(_DRAWS), description="numbers", **look),
        "outlier": widgets.IntSlider(0, 0, 60, 5, description="outliers of", continuous_update=False, **look),
        "form": widgets.Dropdown(options=list(_CODES), description="format", **look),
        "block": widgets.SelectionSlider(
            options=[32, 64, 128, 256, 1024, 4096], value=64, description="block",
            continuous_update=False, **look,
        ),
        "double_quant": widgets.Checkbox(False, description="double quantisation", **look),
    }  # fmt: skip
    picture, sentence = widgets.Image(format="png"), widgets.HTML()

    def redraw(_: object = None) -> None:
        picture.value, sentence.value = _explored(**{name: c.value for name, c in controls.items()})

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return widgets.HBox([widgets.VBox([*controls.values(), sentence]), picture])


def _numbers(draw: str, outlier: int) -> np.ndarray:
    """The explorer's numbers; with ``outlier``, one in a thousand is that large."""
    rng = np.random.default_rng(0)
    values = _DRAWS[draw](rng, _NUMBERS)
    if outlier:
        values[rng.permutation(_NUMBERS)[: _NUMBERS // 1000]] = outlier
    return np.asarray(values, dtype=np.float32)


def _explored(draw: str, outlier: int, form: str, block: int, double_quant: bool) -> tuple[bytes, str]:
    """The explorer's picture (PNG) and sentence."""
    values = _numbers(draw, outlier)
    found = {name: explore_format(values, name, block, double_quant) for name in _CODES}
    errors = {name: float(np.mean((one.values - values) ** 2)) for name, one in found.items()}
    with course_style():
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.4), width_ratios=(3, 2))
        _one_block(left, values[:block], found[form].values[:block], form)
        colours = [BLUE if name == form else GREY for name in errors]
        right.barh([name.replace(" ", "\n") for name in errors], list(errors.values()), color=colours)
        right.set(title="mean squared error", xlim=(0, 1.3 * max(errors.values())))
        for row, error in enumerate(errors.values()):
            right.text(error, row, f" {error:.2g}", va="center", fontsize=8.5)
        right.invert_yaxis()
        plt.close(figure)
    best = min(errors, key=lambda name: errors[name])
    share = np.mean(found[form].values == 0)
    sentence = (
        f"{form}, blocks of {block}: {found[form].bits:.3f} bits a number, mean squared error "
        f"{errors[form]:.3g}; {share:.1%} of the numbers become exactly 0. Least error here: {best}, "
        f"with {found[best].bits:.3f} bits."
    )
    return png(figure), sentence


def _one_block(axes: Axes, before: np.ndarray, after: np.ndarray, form: str) -> None:
    """Numbers of the first block against what they become, on the values that occur."""
    for level in np.unique(after):
        axes.axhline(level, color=GREY, linewidth=0.6, alpha=0.6)
    ends = [min(before.min(), after.min()), max(before.max(), after.max())]
    axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(before, after, "o", color=BLUE, markersize=3)
    axes.set(title=f"first block in {form}", xlabel="number", ylabel="what comes back")
