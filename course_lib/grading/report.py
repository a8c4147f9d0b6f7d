"""What the class understood: attempts, scores, and the mistakes that were made most, as one page."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.exercises import Exercise, Verdict
from course_lib.grading.book import Book
from course_lib.grading.feedback import page
from course_lib.grading.integrity import Remark
from course_lib.grading.judge import Result
from course_lib.grading.plan import Asked
from course_lib.paths import write_text_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(book: Book, asked: Sequence[Asked], remarks: Sequence[Remark], path: Path | str) -> Path:
    """One page for the instructor: a picture, a table, common mistakes, what was unusual."""
    results = book.results()
    records = [record for one in asked for record in one.exercises]
    by_exercise = {
        r.id: [v for result in results for v in result.verdicts if v.exercise == r.id] for r in records
    }
    body = [f"<h1>What the class understood</h1><p>{len(results)} students.</p>"]
    if results:
        body.append(f"<img alt='points of the class' src='{_totals(results)}'>")
        body.append(f"<img alt='share of points by exercise' src='{_picture(records, by_exercise)}'>")
    if mistakes := Counter(
        f"{v.exercise}  {v.mistake}" for result in results for v in result.verdicts if v.mistake
    ):
        body.append("<h2>Commonest mistakes</h2>")
        body.append(f"<img alt='commonest mistakes' src='{_bars(mistakes.most_common(12))}'>")
    body.append(f"<h2>By exercise</h2><div class='wide'>{_table(records, by_exercise)}</div>")
    odd = "".join(
        f"<li><b>{html.escape(result.student)}</b>: {html.escape('; '.join(result.notes))}</li>"
        for result in results if result.notes
    )  # fmt: skip
    looked = "".join(
        f"<li><b>{html.escape(' and '.join(r.students))}</b>: {html.escape(r.text)}</li>" for r in remarks
    )
    body.append(f"<h2>Unusual submissions</h2><ul>{odd or '<li>none</li>'}</ul>")
    body.append("<h2>For a person to look at</h2><p>Reported, not judged: none of this changed a grade.</p>"
                f"<ul>{looked or '<li>nothing</li>'}</ul>")  # fmt: skip
    write_text_atomically(Path(path), page("What the class understood", "".join(body)), private=True)
    return Path(path)


def _table(records: Sequence[Exercise], by_exercise: dict[str, list[Verdict]]) -> str:
    head = ("<tr><th>exercise</th><th class='n'>attempts</th><th class='n'>right</th>"
            "<th class='n'>mean</th><th>commonest mistakes</th></tr>")  # fmt: skip
    rows = []
    for record in records:
        found = by_exercise[record.id]
        tried = [v for v in found if v.status != "not attempted"]
        mean = sum(v.points for v in found) / len(found) if found else 0.0
        named = Counter(v.mistake or f"does not {v.property}" for v in tried if v.mistake or v.property)
        common = "; ".join(f"{html.escape(name)} ({n})" for name, n in named.most_common(3))
        right = sum(v.status == "correct" for v in tried)
        rows.append(
            f"<tr><td>{record.id} {html.escape(record.title)}</td><td class='n'>{len(tried)}</td>"
            f"<td class='n'>{right}</td><td class='n'>{mean:.2f} of {record.points}</td>"
            f"<td>{common}</td></tr>"
        )
    return f"<table>{head}{''.join(rows)}</table>"


def _picture(records: Sequence[Exercise], by_exercise: dict[str, list[Verdict]]) -> str:
    """Stacked bars: full, part, no points, not attempted; as a data address."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.28 * len(records) + 1.2), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(records)
    kinds = {"right": "#2a7d4f", "in part": "#d9a441", "no points": "#b3452c", "not attempted": "#c9ccd1"}
    for kind, colour in kinds.items():
        share = [_share(by_exercise[record.id], kind) for record in records]
        axes.barh([record.id for record in records], share, left=left, color=colour, label=kind)
        left = [a + b for a, b in zip(left, share, strict=True)]
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the class", ylabel="exercise")
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return _address(figure)


def _totals(results: Sequence[Result]) -> str:
    """How many students have how many of the points that are given without a reader."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.2), layout="constrained")
    axes = figure.subplots()
    largest = max(result.out_of for result in results)
    axes.hist([result.points for result in results], bins=20, range=(0, max(1, largest)), color="#4a6fa5")
    axes.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.set(xlabel=f"points of {largest}, answers in words left out", ylabel="students")
    return _address(figure)


def _bars(mistakes: Sequence[tuple[str, int]]) -> str:
    """Named mistakes and how many made them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.3 * len(mistakes) + 0.8), layout="constrained")
    axes = figure.subplots()
    names, counts = zip(*mistakes, strict=True)
    axes.bar_label(axes.barh(names, counts, color="#b3452c"), padding=3)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.invert_yaxis()
    axes.set(xlabel="students")
    return _address(figure)


def _address(figure: Figure) -> str:
    """A picture as an address that holds it."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _share(found: Sequence[Verdict], kind: str) -> float:
    def of(verdict: Verdict) -> str:
        if verdict.status in ("correct", "not attempted"):
            return "right" if verdict.status == "correct" else "not attempted"
        return "in part" if verdict.points else "no points"

    return sum(of(verdict) == kind for verdict in found) / max(1, len(found))
