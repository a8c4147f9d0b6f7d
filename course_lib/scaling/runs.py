"""Tables of training runs: any CSV, our own sweep, and the public ones, which are fetched from their home."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from course_lib.catalog import Architecture
from course_lib.paths import data_path, write_atomically
from course_lib.scaling.counting import CONVENTIONS, Convention, flops_per_token, parameters
from course_lib.scaling.laws import Cost, Floats


@dataclass(frozen=True)
class Runs:
    """Runs or checkpoints: N parameters, D tokens, C FLOP, loss in nats a token, each (n,).

    ``run`` names the run that each row belongs to (checkpoints of one run share it), ``budget`` the FLOP it
    was planned for, which groups an isoFLOP profile. ``convention`` says in words how N and C were counted.
    """

    N: Floats
    D: Floats
    C: Floats
    loss: Floats
    run: NDArray[Any]
    budget: Floats
    convention: str

    @classmethod
    def of(
        cls, N: Any, D: Any, loss: Any, *, C: Any = None, run: Any = None, budget: Any = None,
        convention: str = "C = 6ND",
    ) -> Runs:  # fmt: skip
        """Runs from columns; C is 6ND, every row a run and C its budget unless given."""
        N, D, loss = (np.asarray(column, dtype=float) for column in (N, D, loss))
        C = 6 * N * D if C is None else np.asarray(C, dtype=float)
        run = np.arange(len(N)) if run is None else np.asarray(run)
        budget = C if budget is None else np.asarray(budget, dtype=float)
        sizes = {column.shape for column in (N, D, loss, C, run, budget)}
        if len(sizes) > 1 or N.ndim != 1:
            raise ValueError(f"the columns must be one-dimensional and of one length, got shapes {sizes}")
        return cls(N, D, C, loss, run, budget, convention)

    @classmethod
    def from_csv(
        cls, path: str | Path, N: str = "N", D: str = "D", loss: str = "loss", C: str | None = None,
        run: str | None = None, budget: str | None = None, convention: str | None = None,
    ) -> Runs:  # fmt: skip
        """Runs from any CSV with a header; the arguments name its columns.

        Raises FileNotFoundError, ValueError for a column that is not there (naming those that are) or a value
        that is no number (naming its line).
        """
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = {"N": N, "D": D, "loss": loss, "C": C, "budget": budget}
        numbers = {k: _numbers(rows, name, path) for k, name in columns.items() if name is not None}
        names = None if run is None else [row[run] for row in rows]
        said = convention or ("C = 6ND" if C is None else f"C from the column {C}")
        return cls.of(**numbers, run=names, convention=said)

    def __len__(self) -> int:
        return len(self.N)

    def where(self, chosen: Any) -> Runs:
        """Some of the rows: a mask or their numbers, e.g. ``runs.where(runs.C < 1e13)``."""
        columns = (self.N, self.D, self.C, self.loss, self.run, self.budget)
        return Runs(*(column[chosen] for column in columns), self.convention)  # type: ignore[call-arg]

    @property
    def cost(self) -> Cost:
        """C = k N^g D fitted to the rows (least squares on logarithms); 6ND comes back as 6 and 1."""
        x, y = np.log(self.N), np.log(self.C / self.D)
        g = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
        return Cost(float(np.exp(y.mean() - g * x.mean())), float(g))


def load_sweep(name: str = "cpu", convention: Convention = "exact", curves: bool = False) -> Runs:
    """The course's own sweep (``data/sweeps/NAME.csv``), counted under a convention.

    One row a run with its validation loss; with ``curves`` its training curve instead (training loss of new
    text; the rate has not yet fallen before a run's end). Characters are the tokens. Raises
    FileNotFoundError for an unknown name.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    rows = _table(data_path("sweeps", f"{name}.csv"))
    size, flops = ("N_kaplan" if convention == "kaplan" else "N"), _FLOPS[convention]
    if curves:
        final = {row["run"]: row for row in rows}
        points = _table(data_path("sweeps", f"{name}.curves.csv"))
        rows = [_at(final[point["run"]], point) for point in points if point["run"] in final]
    columns = {key: np.array([float(row[column]) for row in rows]) for key, column in
               {"N": size, "D": "D", "loss": "loss", "C": flops, "budget": "budget"}.items()}  # fmt: skip
    from course_lib.scaling.counting import convention_said

    return Runs.of(**columns, run=[row["run"] for row in rows], convention=convention_said(convention))


_FLOPS = {"exact": "C", "kaplan": "C_kaplan", "chinchilla": "C_chinchilla", "total": "C_total"}


def _at(row: dict[str, str], point: dict[str, str]) -> dict[str, Any]:
    """A run's row at an earlier point of its training."""
    share = float(point["D"]) / float(row["D"])
    spent = {column: float(row[column]) * share for column in _FLOPS.values()}
    return {**row, **spent, "D": point["D"], "loss": point["loss"]}


def load_epoch(drop_outliers: bool = True, refresh: bool = False) -> Runs:
    """Epoch AI's 245 points read off Hoffmann et al.'s Figure 4; without five outliers 240. D = C / 6N.

    Fetched from the authors' repository on the first call, checked and kept in the user's cache: the file
    has no licence and is not shipped. Raises ConnectionError, saying what to do, where there is no network.
    Source: Besiroglu et al. 2024, arXiv 2404.10102.
    """
    path = fetch("epoch", refresh)
    rows = _table(path)
    N, C, loss = (_numbers(rows, name, path) for name in ("Model Size", "Training FLOP", "loss"))
    runs = Runs.of(N, C / (6 * N), loss, C=C, convention="N with embeddings, D = C / 6N")
    # the five of highest loss, as in the replication
    return runs.where(loss < 3.44699) if drop_outliers else runs


def load_gemstones(
    which: str = "constant rate", convention: Convention = "exact", refresh: bool = False
) -> Runs:
    """Checkpoints of the Gemstones, 22 models of many widths and depths, counted under a convention.

    ``which`` is "constant rate" (up to 100B tokens), "350B tokens", "120B tokens on", "cooldown" or "half
    rate". Fetched from the authors' repository on the first call and kept in the user's cache. Raises
    ConnectionError, saying what to do, where there is no network.
    Source: McLeish et al. 2025, arXiv 2502.06857.
    """
    if which not in _GEMSTONES:
        raise ValueError(f"which must be one of {', '.join(_GEMSTONES)}, got {which!r}")
    from course_lib.scaling.counting import convention_said

    lines = fetch(f"gemstones {which}", refresh).read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["step"] > 0]
    models = [gemstone(int(row["width"]), int(row["depth"])) for row in rows]
    D = np.array([float(row["tokens"]) for row in rows])
    C = D * [flops_per_token(model, 2048, convention) for model in models]
    N, loss = [parameters(model, convention) for model in models], [row["final_loss"] for row in rows]
    return Runs.of(N, D, loss, C=C, run=[r["run_name"] for r in rows], convention=convention_said(convention))


def gemstone(width: int, depth: int) -> Architecture:
    """A Gemstone's architecture: heads of 128, half as many keys, an MLP of four times the width."""
    heads = max(2, width // 128)
    return Architecture(
        name=f"gemstone-{width}x{depth}", hidden=width, layers=depth, heads=heads, kv_heads=heads // 2,
        head_dim=width // heads, intermediate=4 * width, vocab=50_304, max_length=2048,
        source="McLeish et al. 2025, arXiv 2502.06857",
    )  # fmt: skip


_GITHUB = "https://raw.githubusercontent.com/"
_EPOCH = _GITHUB + "epoch-research/analyzing-chinchilla/92258837425e1b5f2851d624287f0120583a3d0e/data/"
_GEMSTONE_FILES = (
    _GITHUB + "mcleish7/gemstone-scaling-laws/1fb97a26b3a4ee647475ee3b46d67413b1844405/wandb_dfs/"
    "wandb_df_for_fitting_"
)
_GEMSTONES = {
    "constant rate": "hot_477.jsonl", "350B tokens": "hot_100b+_477.jsonl",
    "120B tokens on": "hot_120b+_only_477.jsonl", "cooldown": "cool_end.jsonl",
    "half rate": "lr_ablation_hot_477.jsonl",
}  # fmt: skip
# address of each file at a fixed commit, and its SHA-256; None: that of the first download holds from then on
_SOURCES: dict[str, tuple[str, str | None]] = {
    "epoch": (
        _EPOCH + "svg_extracted_data.csv",
        "193478df4e90f040016431996c45682659306840ecdadf83cfb9cd5ca0aa1b30",
    ),
    **{f"gemstones {which}": (_GEMSTONE_FILES + name, None) for which, name in _GEMSTONES.items()},
}


def fetch(source: str, refresh: bool = False) -> Path:
    """Path of a public table in the user's cache, downloaded where it is not there or ``refresh`` is asked.

    Raises ConnectionError without a network and ValueError for a file that is not the one expected.
    """
    (url, expected), path = _SOURCES[source], cached(source)
    seen = path.with_name(path.name + ".sha256")
    if path.exists() and not refresh:
        content = path.read_bytes()
    else:
        content = _download(url, path)
    digest = hashlib.sha256(content).hexdigest()
    expected = expected or (seen.read_text().strip() if seen.exists() else digest)
    if digest != expected:
        raise ValueError(
            f"{source}: SHA-256 {digest[:16]}… of {path if path.exists() else url} is not the expected "
            f"{expected[:16]}…; delete {path.parent} and try again, or read your own copy by Runs.from_csv"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or refresh:
        write_atomically(path, lambda file: file.write(content))
    if not seen.exists():
        write_atomically(seen, lambda file: file.write(digest.encode()))
    return path


def cached(source: str) -> Path:
    """Where a public table is kept once it was fetched."""
    return _cache() / source.replace(" ", "-") / _SOURCES[source][0].rsplit("/", 1)[1]


def _download(url: str, path: Path) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.read()
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise ConnectionError(
            f"cannot fetch {url} ({error}). Connect to the network once, or put the file at {path} yourself"
        ) from None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "course_lib" / "runs"


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _numbers(rows: Sequence[dict[str, str]], column: str, path: str | Path) -> Floats:
    if not rows or column not in rows[0]:
        raise ValueError(
            f"{path} has no column {column!r}; it has {', '.join(rows[0]) if rows else 'no rows'}. Name the "
            "columns, as in Runs.from_csv(path, N='Model Size', D='tokens', loss='loss')"
        )
    values = []
    for line, row in enumerate(rows, 2):
        try:
            values.append(float(row[column]))
        except (TypeError, ValueError):
            raise ValueError(f"{path}, line {line}: {column} is {row[column]!r}, no number") from None
    return np.array(values)
