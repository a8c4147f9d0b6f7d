"""Chapter 3's pictures: spectra, SVFT's patterns, curves with bands, and the explorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from course_lib.adapters import SVF, SVFT, LoRA, LoRAXS, MiLoRA, PiSSA, Spec
from course_lib.catalog import architecture, architectures
from course_lib.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY, course_style, note, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (RED, ":"), (PURPLE, (0, (5, 1, 1, 1))), (GREY, "-"))
_PATTERN_SIZE = 24  # cells a side that still can be seen one by one


def spectrum(weights: Mapping[str, np.ndarray], rank: int | None = None, title: str = "") -> Figure:
    """Singular values of some matrices, each divided by its largest, and the share of the squared Frobenius
    norm that the first k of them carry; a dashed line at ``rank``.
    """
    with course_style():
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.2))
        for (name, weight), (colour, line) in zip(weights.items(), _LINES, strict=False):
            values = np.linalg.svd(np.asarray(weight, dtype=np.float64), compute_uv=False)
            places = np.arange(1, len(values) + 1)
            left.plot(places, values / values[0], color=colour, linestyle=line, label=name)
            right.plot(places, np.cumsum(values**2) / np.sum(values**2), color=colour, linestyle=line)
        for axes in (left, right):
            if rank is not None:
                axes.axvline(rank, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.set(xlabel="k", xlim=(0, None), ylim=(0, 1.03))
        left.set(ylabel="k-th singular value / largest", title=title)
        right.set(xlabel="first k", ylabel="share of the squared norm")
        right.legend(handles=left.lines[: len(weights)], fontsize=9, loc="lower right")
        plt.close(figure)
    return figure


def patterns(cells: Mapping[str, np.ndarray], n: int, title: str = "") -> Figure:
    """Pictures of M (n, n), one a name: trained cells are dark; ``cells`` (2, k) are rows and columns."""
    with course_style():
        import matplotlib.pyplot as plt

        figure, row = plt.subplots(1, len(cells), figsize=(2.15 * len(cells), 2.6), squeeze=False)
        for axes, (name, where) in zip(row[0], cells.items(), strict=True):
            _pattern(axes, where, n)
            axes.set_title(f"{name}\n{np.shape(where)[1]} cells", fontsize=9, loc="center")
        if title:
            figure.suptitle(title, fontsize=11, fontweight="bold", x=0.02, ha="left")
        plt.close(figure)
    return figure


def bands(
    curves: Mapping[str, np.ndarray], xlabel: str = "step", ylabel: str = "loss", title: str = "",
    smooth: int = 1, log: bool = False,
) -> Figure:  # fmt: skip
    """Mean and range over seeds of some curves, each (seeds, steps); ``smooth`` steps are averaged."""
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 3.4))
        for (name, values), (colour, line) in zip(curves.items(), _LINES, strict=False):
            window = np.ones(smooth) / smooth
            even = np.array([np.convolve(seed, window, mode="valid") for seed in np.atleast_2d(values)])
            places = np.arange(even.shape[1]) + 1 + (smooth - 1) / 2
            axes.fill_between(places, even.min(0), even.max(0), color=colour, alpha=0.18, linewidth=0)
            axes.plot(places, even.mean(0), color=colour, linestyle=line, label=name)
        seeds = max(len(np.atleast_2d(values)) for values in curves.values())
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xlim=(0, None))
        if log:
            axes.set_yscale("log")
        axes.legend(fontsize=9)
        small = f"line: mean of {seeds} seeds; band: from the lowest to the highest seed"
        note(axes, small + (f"; averaged over {smooth} steps" if smooth > 1 else ""))
        plt.close(figure)
    return figure


def decay(errors: Mapping[str, Sequence[float]], ylabel: str, title: str = "") -> Figure:
    """Errors that fall over many powers of ten, against the iteration; zeros are not drawn."""
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 3.4))
        for (name, values), (colour, line) in zip(errors.items(), _LINES, strict=False):
            shown = [(i, value) for i, value in enumerate(values) if value > 0]
            axes.plot(
                *zip(*shown, strict=True), color=colour, linestyle=line, marker="o", markersize=3, label=name
            )
        axes.set(yscale="log", xlabel="iteration", ylabel=ylabel, title=title)
        axes.legend(fontsize=9)
        plt.close(figure)
    return figure


def svd_explorer() -> Any:
    """Controls for model, method and size; a picture of what is trained between U and V, and its cost."""
    import ipywidgets as widgets

    look = {"style": {"description_width": "90px"}, "layout": widgets.Layout(width="330px")}
    controls = {
        "model": widgets.Dropdown(
            options=list(architectures()), value="gemma-2b", description="model", **look
        ),
        "method": widgets.Dropdown(options=list(_METHODS), value="SVFT banded", description="method", **look),
        "size": widgets.IntSlider(8, 0, 64, description="r or d", continuous_update=False, **look),
    }
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="820px"))
    sentence = widgets.HTML()

    def redraw(_: object = None) -> None:
        controls["size"].disabled = controls["method"].value in _ONE_SIZE
        picture.value, sentence.value = _explored(**{name: c.value for name, c in controls.items()})

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([widgets.VBox([*controls.values()]), picture, sentence])


_ONE_SIZE = ("SVF", "SVFT plain")
_METHODS: dict[str, Any] = {
    "PiSSA": PiSSA,
    "MiLoRA": MiLoRA,
    "LoRA-XS": LoRAXS,
    "SVF": lambda size: SVF(),
    "SVFT plain": lambda size: SVFT("plain"),
    "SVFT banded": lambda size: SVFT("banded", size),
    "SVFT random": lambda size: SVFT("random", size),
}


def explore_method(model: str, method: str, size: int) -> tuple[Spec, str]:
    """The spec that the explorer's controls say, and a sentence on its cost in that model."""
    spec: Spec = _METHODS[method](max(size, 1) if method in ("PiSSA", "MiLoRA", "LoRA-XS") else size)
    arch = architecture(model)
    trained = spec.trainable_parameters(arch)
    frozen = _frozen(spec, model)
    share = trained / arch.parameter_count()
    sentence = (
        f"{trained:,} trainable parameters ({share:.3%} of {arch.parameter_count():,}); "
        f"beside W it keeps {frozen:,} frozen numbers: {2 * (trained + frozen) / 1e9:.2f} GB in 16 bits. "
        f"LoRA of rank 1 trains {LoRA(1).trainable_parameters(arch):,}."
    )
    return spec, sentence


def _explored(model: str, method: str, size: int) -> tuple[bytes, str]:
    """The explorer's picture (PNG) and sentence."""
    spec, sentence = explore_method(model, method, size)
    shrunk = size != _drawn_size(size) and method not in _ONE_SIZE
    scale = f"\n(r or d of {size} drawn as {_drawn_size(size)})" if shrunk else ""
    with course_style():
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.3), width_ratios=(1, 1.25))
        _pattern(left, _explored_cells(method, _drawn_size(size)), _PATTERN_SIZE)
        left.set_title(_CAPTIONS.get(method, "trained cells of M") + scale, fontsize=8.5, loc="center")
        _sizes(right, spec, model)
        right.set_title(method if method in _ONE_SIZE else f"{method}, r or d = {size}", fontsize=9.5)
        picture = png(figure)
        plt.close(figure)
    return picture, sentence


def _sizes(axes: Axes, spec: Spec, model: str) -> None:
    """What the method trains and keeps in that model, beside LoRA of rank 16 and the model itself."""
    arch = architecture(model)
    bars = {
        "trained": (spec.trainable_parameters(arch), BLUE),
        "kept beside W": (_frozen(spec, model), SKY),
        "LoRA, r = 16, trains": (LoRA(16).trainable_parameters(arch), GREY),
        "the model": (arch.parameter_count(), GREY),
    }
    axes.barh(list(bars), [count for count, _ in bars.values()], color=[hue for _, hue in bars.values()])
    for row, (count, _) in enumerate(bars.values()):
        axes.text(max(count, 1e3) * 1.3, row, f"{count:,}", va="center", fontsize=8)
    axes.set(xscale="log", xlim=(1e3, 3e14), xlabel="numbers")
    axes.set_xticks([1e3, 1e6, 1e9, 1e12], ["10³", "10⁶", "10⁹", "10¹²"], minor=False)
    axes.minorticks_off()
    axes.tick_params(axis="y", labelsize=8.5)
    axes.invert_yaxis()


def _frozen(spec: Spec, model: str) -> int:
    """Numbers that the method keeps beside the weights and does not train."""
    return sum(spec.footprint(shape, path).frozen for path, shape in spec.adapted(architecture(model)))


_CAPTIONS = {
    "PiSSA": "rows and columns of the r largest",
    "MiLoRA": "rows and columns of the r smallest",
    "LoRA-XS": "R between the r largest triplets",
    "SVF": "Z on the diagonal",
}


def _drawn_size(size: int) -> int:
    return min(size, _PATTERN_SIZE // 2)


def _explored_cells(method: str, size: int) -> np.ndarray:
    """Cells in the basis of U and V that a method moves, in a picture of _PATTERN_SIZE a side."""
    from course_lib.adapters.svft import pattern_cells

    n, r = _PATTERN_SIZE, max(size, 1)
    if method.startswith("SVFT"):
        pattern = method.split()[1]
        return pattern_cells(pattern, n, 0 if pattern == "plain" else size).numpy()
    if method == "SVF":
        return np.stack([np.arange(n)] * 2)
    square = np.zeros((n, n), dtype=bool)
    if method == "LoRA-XS":
        square[:r, :r] = True
    else:  # a step along A or B moves whole rows and columns of the chosen triplets
        chosen = slice(0, r) if method == "PiSSA" else slice(n - r, n)
        square[chosen, :] = square[:, chosen] = True
    return np.stack(np.nonzero(square))


def _pattern(axes: Axes, cells: np.ndarray, n: int) -> None:
    picture = np.zeros((n, n))
    rows, columns = np.asarray(cells)
    picture[rows, columns] = 1
    axes.imshow(picture, cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_color(INK)
