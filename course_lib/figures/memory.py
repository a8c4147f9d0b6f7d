"""Chapter 1's pictures: bars of bytes against the memory of GPUs, a step's timeline, growth, the explorer."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_lib.adapters import LoRA
from course_lib.catalog import architecture, architectures
from course_lib.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    course_style,
    note,
)
from course_lib.memory import CATEGORIES, DTYPES, GB, MemoryReport, predict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# GB, as the vendors' data sheets state them
GPUS = {"T4": 16, "L4, RTX 4090": 24, "A40": 48, "A100, H100": 80, "H200": 141}
_COLOURS = {
    "weights": GREY, "quantization_constants": "#5A5F69", "adapters": GREEN, "master": "#B8860B",
    "gradients": ORANGE, "adam_mean": BLUE, "adam_variance": SKY, "optimizer_other": "#004B75",
    "kv_cache": PURPLE, "activations": RED, "recompute": "#F2A37A", "logits": YELLOW, "workspace": "#DDE0E6",
}  # fmt: skip


_IN_GB = "GB at the peak (1 GB = 10⁹ bytes)"
_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # behind a number that a line may cross


def memory_bars(reports: Mapping[str, MemoryReport], title: str = "", gpus: bool = True) -> Figure:
    """One stacked bar a report: what is alive at the peak, by category, in GB (MB where all is less than
    one); GPUs' sizes as dashed lines.
    """
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 1.6 + 0.5 * len(reports)), layout="none")
        _margins(figure, max(len(name) for name in reports))
        most = max(report.peak for report in reports.values())
        unit, named = (1e6, "MB at the peak (1 MB = 10⁶ bytes)") if most < 0.95 * GB else (GB, _IN_GB)
        limit = _limit(most, gpus) / unit
        stacked(axes, reports, unit)
        for row, report in enumerate(reports.values()):
            place = report.peak / unit + 0.008 * limit
            axes.text(place, row, amount(report.peak), va="center", fontsize=9, bbox=_WHITE)
        if gpus:
            _gpu_lines(axes, limit, unit)
        axes.set(xlim=(0, limit), xlabel=named)
        axes.xaxis.set_major_formatter(_number)
        axes.set_title(title, pad=26 if gpus else 8)
        axes.invert_yaxis()
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
        plt.close(figure)  # shown by whoever holds it, once
    return figure


def step_timeline(report: MemoryReport, title: str = "", unit: float = 1e6) -> Figure:
    """Live bytes (in MB) after each operation of a measured step, its phases shaded and the peak marked."""
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 3.2))
        sizes = [size / unit for _, size in report.timeline]
        _shade(axes, [name.split(":")[0] for name, _ in report.timeline])
        axes.step(range(len(sizes)), sizes, where="post", color=BLUE, linewidth=1.2)
        top = max(range(len(sizes)), key=sizes.__getitem__)
        axes.plot(top, sizes[top], "o", color=RED)
        late = top > len(sizes) / 2  # the text stands where there is room
        axes.annotate(
            f"peak {sizes[top]:,.1f} MB", (top, sizes[top]), (-8 if late else 8, -4), color=RED,
            textcoords="offset points", ha="right" if late else "left",
        )  # fmt: skip
        axes.set(xlim=(0, len(sizes)), ylim=(0, max(sizes) * 1.18), ylabel="MB alive", title=title)
        axes.set_xlabel("operations, in the order in which they run")
        plt.close(figure)
    return figure


def growth(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, title: str, small: str = ""
) -> Figure:
    """Lines of GB against a size (tokens, batch); a curve is (sizes, bytes), ``small`` the small print."""
    with course_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8.6, 3.2))
        colours = (BLUE, ORANGE, GREEN, RED, PURPLE)
        styles = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))  # for readers who see no colours
        for (name, (sizes, values)), colour, line in zip(curves.items(), colours, styles, strict=False):
            scaled = [value / GB for value in values]
            axes.plot(sizes, scaled, marker="o", markersize=3.5, color=colour, linestyle=line, label=name)
        axes.set(xlabel=xlabel, ylabel="GB", title=title, ylim=(0, None), xlim=(0, None))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend(fontsize=9)
        if small:
            note(axes, small)
        plt.close(figure)
    return figure


def bottleneck(report: MemoryReport) -> str:
    """The largest part of the peak, what would make it smaller, and the part that comes next; two
    sentences.
    """
    sums = {group: sum(report.at_peak.get(name, 0) for name in parts) for group, parts in _GROUPS.items()}
    first, second = sorted(sums, key=lambda group: -sums[group])[:2]
    said = (
        f"{sums[first] / report.peak:.0%} of the peak is {first} ({amount(sums[first])}): {_ADVICE[first]}."
    )
    return f"{said} Next: {second} ({amount(sums[second])})." if sums[second] else said


_TRAINED = "gradients and the optimiser's states"
_GROUPS = {
    "weights": ("weights", "quantization_constants", "adapters"),
    _TRAINED: ("gradients", "master", "adam_mean", "adam_variance", "optimizer_other"),
    "KV cache": ("kv_cache",),
    "activations": ("activations", "recompute"),
    "logits": ("logits",),
    "workspace": ("workspace",),
}
_ADVICE = {
    "weights": "quantise them, or take a smaller model",
    _TRAINED: "train fewer parameters (an adapter), or keep 8-bit states",
    "KV cache": "a shorter context, a smaller batch, or fewer key and value heads",
    "activations": "checkpointing, a smaller batch or shorter sequences",
    "logits": "a smaller batch, or a loss that never holds all logits at once",
    "workspace": "temporary results: a smaller batch, or fused operations",
}


def memory_explorer() -> Any:
    """Controls for model, method, rank, types, optimiser, batch, length and checkpointing; bars against
    GPUs and a sentence on the bottleneck follow them.
    """
    import ipywidgets as widgets

    controls = _controls(widgets)
    picture, sentence = widgets.Image(format="png"), widgets.HTML()

    def redraw(_: object = None) -> None:
        picture.value, sentence.value = _explored(**{name: c.value for name, c in controls.items()})

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    columns = [widgets.VBox(list(controls.values())[i : i + 4]) for i in (0, 4)]
    return widgets.VBox([widgets.HBox(columns), picture, sentence])


def _controls(widgets: Any) -> dict[str, Any]:
    look = {"style": {"description_width": "100px"}, "layout": widgets.Layout(width="330px")}

    def choice(label: str, options: Sequence[Any], value: Any) -> Any:
        return widgets.Dropdown(options=options, value=value, description=label, **look)

    return {
        "model": choice("model", [name for name in architectures() if _is_llama_like(name)], "llama-3.2-1b"),
        "method": choice("method", ["full", "LoRA", "QLoRA"], "LoRA"),
        "rank": choice("rank", [1, 4, 8, 16, 32, 64, 128, 256], 16),
        "dtype": choice("types", list(DTYPES), "mixed"),
        "optimizer": choice("optimiser", ["adamw", "adamw-8bit", "sgd-momentum", "sgd"], "adamw"),
        "batch": widgets.IntSlider(1, 1, 64, description="batch", continuous_update=False, **look),
        "length": choice("length", [128, 256, 512, 1024, 2048, 4096, 8192], 512),
        "checkpointing": widgets.Checkbox(False, description="checkpointing", **look),
    }


def _is_llama_like(name: str) -> bool:
    """The account of activations is that of a Llama block."""
    arch = architecture(name)
    return arch.norm == "rms" and arch.positions == "rope"


def _explored(**chosen: Any) -> tuple[bytes, str]:
    """The explorer's picture (PNG) and sentence."""
    arch = architecture(chosen["model"])
    reports = explore(**chosen)
    title = f"{arch.name}, {arch.parameter_count() / 1e9:.2f} billion parameters"
    file = io.BytesIO()
    memory_bars(reports, title).savefig(file, format="png")
    training = list(reports.values())[-1]
    fits = [f"{name} ({size} GB)" for name, size in GPUS.items() if training.peak <= size * GB]
    lines = [f"Training: {bottleneck(training)}"]
    lines.append(f"It fits on {'; '.join(fits)}." if fits else "It fits on none of these GPUs.")
    if chosen["length"] > arch.max_length:
        lines.append(f"{arch.name} reads at most {arch.max_length:,} tokens: shown for that length.")
    return file.getvalue(), "<br>".join(html.escape(line) for line in lines)


def explore(
    model: str, method: str, rank: int, dtype: str, optimizer: str, batch: int, length: int,
    checkpointing: bool,
) -> dict[str, MemoryReport]:  # fmt: skip
    """The explorer's two accounts: generating, and training as the controls say. A length beyond the
    model's own is cut to that.
    """
    spec: Any = "full" if method == "full" else LoRA(rank)
    stored = "bf16" if dtype in ("mixed", "pure-bf16") else dtype
    quantization = "nf4-dq" if method == "QLoRA" else "none"
    sizes: dict[str, Any] = {"batch_size": batch, "seq_len": min(length, architecture(model).max_length)}
    training = predict(model, spec, dtype=dtype, optimizer=optimizer, quantization=quantization,
                       checkpointing=checkpointing, **sizes)  # fmt: skip
    return {
        "inference": predict(model, phase="inference", dtype=stored, quantization=quantization, **sizes),
        method if method == "full" else f"{method}, r = {rank}": training,
    }


def amount(size: float) -> str:
    """Bytes as the figures print them, in decimal units."""
    return f"{size / GB:,.1f} GB" if size >= 0.95 * GB else f"{size / 1e6:,.0f} MB"


def _number(value: float, _: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def stacked(axes: Axes, reports: Mapping[str, MemoryReport], unit: float) -> None:
    """The bars, part by part; parts too small to see have no place in the legend."""
    left = [0.0] * len(reports)
    for name in CATEGORIES:
        sizes = [report.at_peak.get(name, 0) / unit for report in reports.values()]
        seen = any(r.at_peak.get(name, 0) > 0.004 * r.peak for r in reports.values())
        label = {"label": name.replace("_", " ").replace("quantization", "quantisation")} if seen else {}
        axes.barh(list(reports), sizes, 0.64, left, color=_COLOURS[name], edgecolor="white",
                  linewidth=0.5 if seen else 0, **label)  # type: ignore[arg-type]  # fmt: skip
        left = [start + size for start, size in zip(left, sizes, strict=True)]


def _margins(figure: Figure, longest: int) -> None:
    """Fixed margins (names of so many letters, legend, title): the axes stay put when an explorer redraws."""
    height = figure.get_figheight()
    figure.subplots_adjust(0.03 + 0.0085 * longest, 0.52 / height, 0.79, 1 - 0.62 / height)


def _limit(most: float, gpus: bool) -> float:
    """Right end of the axis, in bytes: room for the sums, and for the smallest GPU that fits if it is
    near.
    """
    fitting = min((size * GB for size in GPUS.values() if size * GB >= most), default=0)
    return max(1.14 * most, 1.06 * fitting if gpus and fitting <= 4 * most else 0)


def _gpu_lines(axes: Axes, limit: float, unit: float) -> None:
    """A dashed line for every GPU; a label wherever the one to its right leaves room for it."""
    right = 2 * limit  # left end of the label to the right
    for name, size in sorted(GPUS.items(), key=lambda item: -item[1]):
        place = size * GB / unit
        if place > limit:
            continue
        axes.axvline(place, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        half = 0.0055 * limit * max(len(name), len(f"{size} GB"))
        if place + half < right:
            right = place - half
            axes.annotate(f"{name}\n{size} GB", (place, 1), (0, 3), ("data", "axes fraction"),
                          textcoords="offset points", ha="center", fontsize=7.5, color=INK)  # fmt: skip


def _shade(axes: Axes, phases: Sequence[str]) -> None:
    """A background for each phase of a step, with its name."""
    for phase, colour in {"forward": SKY, "backward": ORANGE, "optimizer step": GREEN}.items():
        places = [i for i, name in enumerate(phases) if name == phase]
        if places:
            axes.axvspan(places[0], places[-1] + 1, color=colour, alpha=0.15, linewidth=0)
            centre = (places[0] + places[-1]) / 2
            axes.text(centre, 0.93, phase, ha="center", fontsize=9, transform=axes.get_xaxis_transform())
