"""Chapter 2's pictures: what a choice of rank and targets costs, accuracy against rank, and the explorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_lib.adapters import ALL_LINEAR, LoRA
from course_lib.catalog import architecture, architectures
from course_lib.figures.memory import stacked
from course_lib.figures.style import BLUE, GREEN, GREY, INK, ORANGE, RED, course_style, png
from course_lib.memory import GB, MemoryReport, predict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def against_rank(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], ylabel: str, title: str = "",
    levels: Mapping[str, float] | None = None,
) -> Figure:  # fmt: skip
    """Values against the rank (in powers of two); ``levels`` are horizontal lines to compare with."""
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 3.2))
        for (name, (ranks, values)), colour in zip(curves.items(), (BLUE, ORANGE, GREEN, RED), strict=False):
            axes.plot(ranks, values, marker="o", markersize=4, color=colour, label=name)
        for name, level in (levels or {}).items():
            axes.axhline(level, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(name, (0.01, level), (0, 3), ("axes fraction", "data"),
                          textcoords="offset points", fontsize=8, color=INK)  # fmt: skip
        ranks = sorted({rank for found, _ in curves.values() for rank in found})
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set_xticks(ranks, [str(rank) for rank in ranks])
        axes.minorticks_off()
        axes.set(xlabel="rank", ylabel=ylabel, title=title, xlim=(min(ranks) - 0.25, 1.2 * max(ranks)))
        if len(curves) > 1:
            axes.legend(fontsize=9)
        plt.close(figure)
    return figure


def against_weight(
    weights: Sequence[float], curves: Mapping[str, Sequence[float]], xlabel: str, title: str = ""
) -> Figure:
    """Share of right answers on several tasks against the weight of one adapter in a mixture of two."""
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 3.2))
        for (name, values), colour in zip(curves.items(), (BLUE, ORANGE, GREEN, RED), strict=False):
            axes.plot(weights, values, marker="o", markersize=4, color=colour, label=name)
        axes.set(xlabel=xlabel, ylabel="share of right answers", title=title, ylim=(-0.03, 1.03))
        axes.legend(fontsize=9)
        plt.close(figure)
    return figure


def lora_explorer() -> Any:
    """Controls for model, rank and targets; what the choice trains, map by map, and what it costs."""
    import ipywidgets as widgets

    look = {"style": {"description_width": "60px"}, "layout": widgets.Layout(width="300px")}
    names = [name for name in architectures() if _has_all_maps(name)]
    controls = {
        "model": widgets.Dropdown(options=names, value="llama-2-7b", description="model", **look),
        "rank": widgets.SelectionSlider(options=[1, 2, 4, 8, 16, 32, 64, 128, 256], value=16,
                                        description="rank", continuous_update=False, **look),
        "targets": widgets.SelectMultiple(options=ALL_LINEAR, value=("q", "v"), rows=7,
                                          description="targets", **look),
    }  # fmt: skip
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="920px"))
    sentence = widgets.HTML()

    def redraw(_: object = None) -> None:
        picture.value, sentence.value = _explored(**{name: c.value for name, c in controls.items()})

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    *left, right = controls.values()
    return widgets.VBox([widgets.HBox([widgets.VBox(left), right]), picture, sentence])


def explore_lora(model: str, rank: int, targets: Sequence[str]) -> tuple[dict[str, int], str]:
    """Trainable parameters of every kind of map, and a sentence on what the choice costs."""
    if not targets:
        return {}, "Choose at least one kind of map (Ctrl or ⌘ adds one)."
    arch, found = architecture(model), _counts(model, rank, targets)
    trained = sum(found.values())
    sentence = (
        f"{trained:,} trainable parameters, {trained / arch.parameter_count():.3%} of the model's "
        f"{arch.parameter_count():,}; a file of {2 * trained / 1e6:,.1f} MB in 16 bits."
    )
    lora, full = _costs(model, rank, tuple(targets)).values()
    sentence += (
        f" One sequence of 512 tokens in bf16, checkpointed, needs {lora.peak / GB:.1f} GB to train, "
        f"full fine-tuning {full.peak / GB:.1f} GB."
    )
    return found, sentence


def _counts(model: str, rank: int, targets: Sequence[str]) -> dict[str, int]:
    """Trainable parameters of every kind of map, over all layers."""
    spec, found = LoRA(rank, targets=tuple(targets)), dict[str, int]()
    for path, shape in spec.adapted(architecture(model)):
        found[shape.name] = found.get(shape.name, 0) + spec.parameters_of(shape, path)
    return found


def _costs(model: str, rank: int, targets: tuple[str, ...]) -> dict[str, MemoryReport]:
    """Bytes of a step on one sequence of 512 tokens in bf16, checkpointed."""
    arch, sizes = architecture(model), {"dtype": "bf16", "seq_len": 512, "checkpointing": True}
    lora = predict(arch, LoRA(rank, targets=targets), **sizes)  # type: ignore[arg-type]
    return {"LoRA": lora, "full": predict(arch, "full", **sizes)}  # type: ignore[arg-type]


def _explored(model: str, rank: int, targets: Sequence[str]) -> tuple[bytes, str]:
    """The explorer's picture (PNG) and sentence: parameters map by map, and bytes beside full fine-tuning."""
    found, sentence = explore_lora(model, rank, targets)
    with course_style():
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.1), width_ratios=(1, 1.2))
        _bars(left, model, rank, found)
        if found:
            stacked(right, _costs(model, rank, tuple(targets)), GB)
            right.invert_yaxis()
            right.set(xlabel="GB at the peak of a step", title="1 × 512 tokens, bf16, checkpointed")
            right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        right.set_visible(bool(found))
        picture = png(figure)
        plt.close(figure)
    return picture, sentence


def _bars(axes: Axes, model: str, rank: int, found: Mapping[str, int]) -> None:
    """Trained parameters of every kind of map; the axis is the same at every rank, so that bars move."""
    low, high = min(_counts(model, 1, ALL_LINEAR).values()), max(_counts(model, 256, ALL_LINEAR).values())
    axes.bar([ALL_LINEAR.index(name) for name in found], list(found.values()), color=BLUE)
    axes.set(yscale="log", ylim=(low / 2, high * 2), ylabel="trained parameters", title=f"LoRA, r = {rank}")
    axes.set_xticks(range(len(ALL_LINEAR)), ALL_LINEAR, fontsize=9)
    axes.set_xlim(-0.6, len(ALL_LINEAR) - 0.4)


def _has_all_maps(name: str) -> bool:
    """Fused maps (GPT-2's and Pythia's) have other names."""
    return {shape.name for shape in architecture(name).linear_shapes()} >= set(ALL_LINEAR)
