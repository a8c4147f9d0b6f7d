"""Every hostile or clumsy submission gets exactly the grade that it deserves, and changes nothing outside."""

import csv
import hashlib
import html
import os
import re
import tempfile
from pathlib import Path

import pytest

from course_lib.grading.book import Book
from course_lib.grading.export import export_csv
from course_lib.grading.feedback import write_feedback
from course_lib.grading.grade import grade_class
from course_lib.grading.integrity import remarks
from course_lib.grading.plan import plan
from course_lib.grading.report import write_report
from course_lib.grading.sandbox import Limits, sandbox
from course_lib.grading.submission import read_submission
from tests.grading.needs import needs_bubblewrap
from tests.hostile.submissions import CASES, SOURCE, write_case

pytestmark = needs_bubblewrap
ROOT = Path(__file__).parents[2]


def hashes(*folders):
    """Of every regular file's name and bytes."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.py")) + sorted(folder.rglob("*.ipynb")):
            if path.is_file() and not path.is_symlink():
                found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def graded():
    """All cases as one class, graded once: results by case, and what changed outside."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for case in CASES:
            write_case(case, place / "class" / case.name)
        before = hashes(place / "class", ROOT / "course_lib/exercises", ROOT / "course_lib/grading")
        asked = plan([SOURCE])
        with sandbox(Limits(seconds=1.5)) as box, Book(place / "book") as book:
            rows = grade_class(place / "class", book, asked, box, workers=2)
            results = {result.student: result for result in book.results()}
            scores = {s.student.id: s.score for s in book.gradebook.assignment_submissions(asked[0].name)}
            pages = {path.stem: path.read_text() for path in write_feedback(book, asked)}
            handed = [read_submission(place / "class" / case.name, asked) for case in CASES]
            report = write_report(book, asked, remarks(handed, asked), place / "report.html").read_text()
            table = list(csv.reader(export_csv(book, asked, place / "t.csv").read_text().splitlines()))
        after = hashes(place / "class", ROOT / "course_lib/exercises", ROOT / "course_lib/grading")
        yield {"rows": rows, "results": results, "scores": scores, "before": before, "after": after,
               "users": {box.user(slot) for slot in range(2)},
               "pages": pages, "report": report, "table": table}  # fmt: skip


def test_there_are_enough():
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_grade_is_exact(graded, case):
    result = graded["results"][case.name]
    told = [f"{v.exercise} {v.status} {v.points}: {v.problem}" for v in result.verdicts] + list(result.notes)
    assert result.points == pytest.approx(case.points, abs=1e-9), "\n".join(told)
    assert graded["scores"][case.name] == pytest.approx(case.points, abs=1e-9)  # as the gradebook has it
    assert case.said in "\n".join(told)


def test_everyone_has_a_row(graded):
    assert [row.student for row in graded["rows"]] == sorted(case.name for case in CASES)
    assert all(row.news == "graded" for row in graded["rows"])


def test_nothing_outside_changed(graded):
    assert graded["before"] == graded["after"]


def test_everyone_has_a_page_and_a_line_in_the_report_where_something_is_odd(graded):
    assert set(graded["pages"]) == {case.name for case in CASES}
    for text in (*graded["pages"].values(), graded["report"]):
        assert not re.search(r"<(script|iframe|b>bold)|\son\w+=|javascript:", text.lower())
        assert "http" not in text.replace("http-equiv", "")
    for name, result in graded["results"].items():
        assert all(len(note) < 1000 for note in result.notes), name
        assert len(result.notes) < 20
        assert not result.notes or f"<b>{html.escape(name)}</b>" in graded["report"]


def test_no_page_tells_a_right_value_or_the_references_code(graded):
    for name, page in graded["pages"].items():
        shown = html.unescape(page)
        assert " is right" not in shown.replace("a result that is right on", ""), name
        assert "* kv_heads" not in shown or "DROP" in name, name


def test_no_cell_of_the_table_is_a_formula(graded):
    head, *rows = graded["table"]
    assert len(rows) == len(CASES)
    assert not [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r")]
    assert all(len(row) == len(head) for row in rows)


def test_no_process_is_left(graded):
    users = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                users.add(os.stat(process).st_uid)
            except OSError:  # it has just ended
                continue
    assert not users & graded["users"]
