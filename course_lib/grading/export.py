"""The class's points as a table that a spreadsheet opens, and that cannot make it run a formula."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from course_lib.grading.book import Book
from course_lib.grading.plan import Asked
from course_lib.paths import write_text_atomically

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # some spreadsheets read the wide ones too


def export_csv(book: Book, asked: Sequence[Asked], path: Path | str) -> Path:
    """One row a student: points of every exercise and question, total, what waits, remarks."""
    prose = book.prose_points()
    exercises = [record for one in asked for record in one.exercises]
    questions = [
        (f"{one.name}/{name}", name.removeprefix("ex-").replace("-", "."))
        for one in asked
        for name in one.prose
    ]
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = ["student", *(record.id for record in exercises), *(name for _, name in questions)]
    table.writerow([*head, "total", "to be read", "remarks"])
    for result in book.results():
        points = {verdict.exercise: verdict.points for verdict in result.verdicts}
        automatic = [round(points.get(record.id, 0.0), 4) for record in exercises]
        by_hand = [prose.get((result.student, key), (0.0, False)) for key, _ in questions]
        numbers = [*automatic, *(given for given, _ in by_hand)]
        waiting = sum(waits for _, waits in by_hand)
        row = [safe(result.student), *numbers, round(sum(numbers), 4), waiting, safe("; ".join(result.notes))]
        table.writerow(row)
    write_text_atomically(Path(path), text.getvalue(), private=True)
    return Path(path)


def safe(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
