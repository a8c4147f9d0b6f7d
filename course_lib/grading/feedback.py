"""A page for each student: verdict, broken property, hint and score. One file, no script, no network."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from course_lib.exercises import Verdict, exercise
from course_lib.grading.book import Book
from course_lib.grading.judge import Result
from course_lib.grading.plan import Asked
from course_lib.paths import write_text_atomically

STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:0 auto;padding:1rem;
overflow-wrap:anywhere}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2rem}h3{font-size:1rem;margin:0 0 .3rem}
article{border-left:5px solid #6b7280;padding:.5rem .9rem;margin:.8rem 0;background:#8881}
.correct{border-color:#2a7d4f}.wrong{border-color:#b3452c}
.points{float:right;font-variant-numeric:tabular-nums;margin-left:1rem}
p,ul{margin:.3rem 0}
ul{padding-left:1.2rem;list-style:none}code{font-size:.92em}
.hint{font-style:italic}ul.hint{list-style:disc}.total{font-size:1.15rem}img{max-width:100%}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.25rem .5rem;border-bottom:1px solid #8885}
td.n,th.n{text-align:right}td.n,th{overflow-wrap:normal;white-space:nowrap}
.wide{overflow-x:auto}
"""
_SAID = {"correct": "✓ correct", "wrong": "✗ not yet right", "not attempted": "… not attempted"}


def page(title: str, body: str) -> str:
    """A whole HTML page that loads nothing and runs nothing."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        "<meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none';style-src 'unsafe-inline';img-src data:\">"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def write_feedback(book: Book, asked: Sequence[Asked], folder: Path | str | None = None) -> list[Path]:
    """``feedback/STUDENT.html`` for everyone who was graded."""
    folder = Path(folder) if folder else book.folder / "feedback"
    folder.mkdir(parents=True, exist_ok=True)
    prose, comments, written = book.prose_points(), book.comments(), []
    for result in book.results():
        path = folder / f"{result.student}.html"
        write_text_atomically(path, feedback_page(result, asked, prose, comments), private=True)
        written.append(path)
    return written


def feedback_page(
    result: Result,
    asked: Sequence[Asked],
    prose: Mapping[tuple[str, str], tuple[float, bool]],
    comments: Mapping[tuple[str, str], str] | None = None,
) -> str:
    """One student's page."""
    verdicts = {verdict.exercise: verdict for verdict in result.verdicts}
    by_hand = [v for (who, _), v in prose.items() if who == result.student]
    total = result.points + sum(points for points, _ in by_hand)
    out_of = result.out_of + sum(points for one in asked for points in one.prose.values())
    open_ = sum(waiting for _, waiting in by_hand)
    body = [f"<h1>Feedback for {html.escape(result.student)}</h1>"]
    body.append(f"<p class='total'><b>{_number(total)}</b> of {_number(out_of)} points"
                f"{f', {open_} answers still to be read' if open_ else ''}.</p>")  # fmt: skip
    if result.notes:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in result.notes)
        body.append(f"<h2>What was unusual</h2><ul>{notes}</ul>")
    for one in asked:
        body.append(f"<h2>{html.escape(one.name.replace('_', ' '))}</h2>")
        for record in one.exercises:
            if record.id in verdicts:
                said = (comments or {}).get(
                    (result.student, f"{one.name}/ex-{record.id.replace('.', '-')}"), ""
                )
                body.append(_exercise(verdicts[record.id], said))
        for name, points in one.prose.items():
            key = (result.student, f"{one.name}/{name}")
            given, waiting = prose.get(key, (0.0, False))
            said = "still to be read" if waiting else f"{_number(given)} of {_number(points)}"
            title = html.escape(f"{name.removeprefix('ex-').replace('-', '.')} In your own words")
            body.append(f"<article><span class='points'>{said}</span><h3>{title}</h3>"
                        f"{_paragraphs((comments or {}).get(key, ''))}</article>")  # fmt: skip
    return page(f"Feedback for {result.student}", "".join(body))


def _exercise(verdict: Verdict, comment: str) -> str:
    lines = []
    if verdict.property:
        lines.append(f"Your answer should {_text(verdict.property)}.")
    if verdict.failing_input:
        lines.append(f"On {_text(verdict.failing_input)}: {_text(verdict.problem or '')}.")
    elif verdict.problem:
        lines.append(f"{_text(verdict.problem[0].upper() + verdict.problem[1:])}.")
    body = "".join(f"<p>{line}</p>" for line in lines)
    if verdict.hint:
        body += f"<p class='hint'>Hint: {_text(verdict.hint)}</p>"
    record = exercise(verdict.exercise)
    if verdict.status == "wrong" and not verdict.mistake:
        steps = "".join(f"<li>{_text(step)}</li>" for step in record.hints)
        body += f"<ul class='hint'>{steps}</ul>"
    if verdict.status == "wrong" and verdict.properties:
        kept = "".join(f"<li>{'✓' if ok else '✗'} {_text(name)}</li>" for name, ok in verdict.properties)
        body += f"<ul>{kept}</ul>"
    body += _paragraphs(comment)
    kind = verdict.status.replace(" ", "-")
    return (
        f"<article class='{kind}'><span class='points'>{_number(verdict.points)} of {verdict.out_of}</span>"
        f"<h3>{html.escape(verdict.exercise)} {_text(record.title)} {record.stars}: "
        f"{_SAID[verdict.status]}</h3>{body}</article>"
    )


def _paragraphs(text: str) -> str:
    """What the reader of an answer wrote, as text."""
    return "".join(f"<p>{html.escape(part)}</p>" for part in text.splitlines() if part.strip())


def _text(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
