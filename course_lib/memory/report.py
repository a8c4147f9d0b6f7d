"""What a memory account looks like: bytes by category, the peak and what was there at the peak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CATEGORIES: dict[str, str] = {  # in the order of the bars and tables
    "weights": "the model's own parameters",
    "quantization_constants": "scales of quantised weights, and tables to unpack them",
    "adapters": "parameters of adapters, and factors they keep frozen",
    "master": "fp32 copy of 16-bit weights",
    "gradients": "one number a trainable parameter",
    "adam_mean": "running mean of the gradients, m",
    "adam_variance": "running mean of their squares, v",
    "optimizer_other": "step counters, momentum, scales and tables of 8-bit states",
    "kv_cache": "keys and values of the tokens so far",
    "activations": "saved in the forward pass for the backward pass",
    "recompute": "one block's activations, made again by checkpointing",
    "logits": "one number a token and vocabulary entry",
    "workspace": "temporary results of single operations",
}
_PAGED = "and paged out of the device"
GB = 1e9  # decimal, as memory is sold; GiB would be 2**30


@dataclass(frozen=True)
class MemoryReport:
    """Bytes by category: in ``bytes`` each category's own largest amount, in ``at_peak`` what is alive then.

    The two differ since not all is alive at once: while gradients appear in the backward pass, activations
    go. ``at_peak`` sums to ``peak``.
    """

    bytes: Mapping[str, int]
    at_peak: Mapping[str, int]
    moment: str  # where in the step the peak is
    timeline: tuple[tuple[str, int], ...] = field(default=(), repr=False)  # (moment or operation, live bytes)
    device_peak: int | None = None  # what the device's own allocator counted (CUDA), where it was asked
    paged: int = 0  # bytes of optimiser states outside the device: in host memory, or in a file

    def __post_init__(self) -> None:
        unknown = (set(self.bytes) | set(self.at_peak)) - set(CATEGORIES)
        if unknown:
            raise ValueError(f"unknown memory categories: {', '.join(sorted(unknown))}")

    def __getitem__(self, category: str) -> int:
        """Bytes of one category (0 where there is none of it)."""
        if category not in CATEGORIES:
            raise KeyError(f"no category is called {category!r}; there are {', '.join(CATEGORIES)}")
        return self.bytes.get(category, 0)

    @property
    def peak(self) -> int:
        """Most bytes alive at once."""
        return sum(self.at_peak.values())

    @property
    def optimizer(self) -> int:
        """All that the optimiser keeps on the device between steps; ``paged`` is beside it."""
        return self["adam_mean"] + self["adam_variance"] + self["optimizer_other"]

    @property
    def static(self) -> int:
        """What does not depend on the batch: weights, adapters, gradients, optimiser."""
        kept = ("weights", "quantization_constants", "adapters", "master", "gradients")
        return sum(self[name] for name in kept) + self.optimizer

    @property
    def total(self) -> int:
        """All categories at their largest, as if alive at once; never less than the peak of a step."""
        return sum(self.bytes.values())

    def rows(self) -> list[tuple[str, int, int]]:
        """(category, bytes, bytes at the peak) of every category that is not empty, in the usual order."""
        return [(n, self[n], self.at_peak.get(n, 0)) for n in CATEGORIES if self[n] or self.at_peak.get(n, 0)]

    def __str__(self) -> str:
        lines = [f"{'':24}{'largest':>12}{'at the peak':>14}"]
        lines += [f"{name:24}{_size(most):>12}{_size(then):>14}" for name, most, then in self.rows()]
        lines.append(f"{'peak (' + self.moment + ')':36}{_size(self.peak):>14}")
        lines += [f"{_PAGED:36}{_size(self.paged):>14}"] if self.paged else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td title='{CATEGORIES[name]}'>{name.replace('_', ' ')}</td>"
            f"<td>{_size(most)}</td><td>{_size(then)}</td></tr>"
            for name, most, then in self.rows()
        )
        paged = f"<tr><td>{_PAGED}</td><td></td><td>{_size(self.paged)}</td></tr>" if self.paged else ""
        return (
            "<table><thead><tr><th></th><th>largest</th><th>at the peak</th></tr></thead>"
            f"<tbody>{cells}<tr><td><b>peak</b> ({self.moment})</td><td></td>"
            f"<td><b>{_size(self.peak)}</b></td></tr>{paged}</tbody></table>"
        )


def _size(count: int) -> str:
    """Bytes as a person reads them (decimal units)."""
    for unit, size in (("GB", GB), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"
