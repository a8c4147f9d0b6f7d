"""Around the judgement: the gradebook that is killed, pages, tables, remarks."""

import csv
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from course_lib.cli import main
from course_lib.exercises import exercises, judge
from course_lib.grading import grade as grading
from course_lib.grading.book import Book
from course_lib.grading.export import safe
from course_lib.grading.feedback import feedback_page, write_feedback
from course_lib.grading.integrity import remarks
from course_lib.grading.judge import Result, judge_submission
from course_lib.grading.plan import plan
from course_lib.grading.submission import read_submission
from tests.grading.needs import ROOT, SOURCE_ANSWER, a_class, grade, needs_bubblewrap
from tests.hostile.submissions import CASES, ONE_LAYER, SOURCE, write_case


@needs_bubblewrap
def test_from_release_to_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a_class(tmp_path / "in", ada=SOURCE_ANSWER, bob=ONE_LAYER)
    assert main(["collect", "in"]) == 0
    assert grade("submissions") == 0
    assert "2 new results" in capsys.readouterr().out
    assert grade("submissions") == 0
    assert "0 new results" in capsys.readouterr().out
    assert main(["regrade", "submissions", "--notebook", str(SOURCE)]) == 0
    assert "0 new results" in capsys.readouterr().out
    assert stat.S_IMODE(os.stat("grades/seed").st_mode) == 0o600
    assert main(["feedback", "--notebook", str(SOURCE)]) == 0
    page = Path("grades/feedback/bob.html").read_text()
    assert "Every layer has keys and values of its own." in page
    assert " is right" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert main(["export", "--csv", "t.csv", "--notebook", str(SOURCE)]) == 0
    rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert [(r["student"], float(r["total"])) for r in rows] == [("ada", 14.0), ("bob", pytest.approx(13.2))]
    assert rows[0]["to be read"] == "1"
    assert main(["report", "submissions", "--notebook", str(SOURCE)]) == 0
    assert "one layer (1)" in Path("report.html").read_text()


@needs_bubblewrap
def test_a_grader_killed_in_mid_class_loses_and_doubles_nothing(tmp_path):
    folder = a_class(tmp_path / "class", **{f"s{i:02}": SOURCE_ANSWER for i in range(12)})
    command = [sys.executable, "-m", "course_lib.cli", "grade", str(folder), "--book", str(tmp_path / "book"),
               "--notebook", str(SOURCE)]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if len(_results(tmp_path / "book")) >= 3 or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = _results(tmp_path / "book")
    assert grade(folder, "--book", str(tmp_path / "book")) == 0
    after = _results(tmp_path / "book")
    assert done == after[: len(done)]
    assert sorted(after) == [f"s{i:02}" for i in range(12)]
    with Book(tmp_path / "book") as book:
        assert [s.score for s in book.gradebook.assignment_submissions(SOURCE.stem)] == [14.0] * 12


def _results(folder):
    """Students in the order in which their results were written."""
    import sqlite3

    if not (folder / "gradebook.db").exists():
        return []
    try:
        with sqlite3.connect(folder / "gradebook.db") as database:
            return [row[0] for row in database.execute("select student from course_results order by id")]
    except sqlite3.OperationalError:  # not there yet, or locked for a moment
        return []


@needs_bubblewrap
def test_what_a_reader_writes_reaches_the_student(tmp_path):
    folder = a_class(tmp_path / "class", ada=SOURCE_ANSWER)
    assert grade(folder, "--book", str(tmp_path / "book")) == 0
    asked = plan([SOURCE])
    with Book(tmp_path / "book") as book:
        find = (SOURCE.stem, SOURCE.stem, "ada")
        book.gradebook.find_grade("ex-1-8", *find).manual_score = 2.5
        book.gradebook.find_grade("ex-1-8", *find).needs_manual_grade = False
        book.gradebook.find_comment("ex-1-8", *find).manual_comment = "Good.\nWhich <b>rank</b>?"
        book.gradebook.find_comment("ex-1-1", *find).manual_comment = "Short and clear."
        book.gradebook.db.commit()
        (page,) = write_feedback(book, asked)
    text = page.read_text()
    assert "<b>16.5</b> of 17 points" in text
    assert "<p>Good.</p><p>Which &lt;b&gt;rank&lt;/b&gt;?</p>" in text
    assert "<p>Short and clear.</p>" in text
    assert main(["regrade", str(folder), "--notebook", str(SOURCE), "--book", str(tmp_path / "book")]) == 0
    with Book(tmp_path / "book") as book:
        assert book.prose_points()["ada", f"{SOURCE.stem}/ex-1-8"] == (2.5, False)


@needs_bubblewrap
def test_a_fault_of_the_graders_own_is_a_row_and_is_tried_again(tmp_path, monkeypatch, capsys):
    folder = a_class(tmp_path / "class", ada=SOURCE_ANSWER, bob=SOURCE_ANSWER)

    def faulty(submission, *more):
        if submission.student == "ada":
            raise ZeroDivisionError
        return judge_submission(submission, *more)

    with monkeypatch.context() as patched:
        patched.setattr(grading, "judge_submission", faulty)
        assert grade(folder, "--book", str(tmp_path / "book")) == 1
    told = capsys.readouterr().out
    assert "0.00 of 14  failed" in told
    assert "14.00 of 14  graded" in told
    assert grade(folder, "--book", str(tmp_path / "book")) == 0
    assert "1 new results" in capsys.readouterr().out


def test_a_person_who_stops_a_command_is_told_that_nothing_is_lost(monkeypatch, capsys):
    from course_lib.grading import commands

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "feedback", stopped)
    assert main(["feedback"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_page_shows_markup_as_text():
    asked = plan([SOURCE])
    record = exercises(1)[0]
    verdict = judge(record, lambda *a: 1 / 0)

    hostile = replace(verdict, problem="<script>alert(1)</script>", failing_input="<img src=x>")
    result = Result("<b>eve</b>", "d", "s", "i", (hostile,), {}, ("<iframe>",))
    page = feedback_page(result, asked, {})
    assert not [tag for tag in ("<script", "<img", "<iframe", "<b>eve") if tag in page]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_table_holds_no_formula(text):
    assert safe(text) == f"'{text}"
    assert safe("ada") == "ada"


def test_remarks_name_copies_library_calls_and_edited_checks(tmp_path):
    asked = plan([SOURCE])
    long = SOURCE_ANSWER + "".join(f"# step {i}: keys and values of layer {i} and so on\n" for i in range(20))
    own = "from course_lib.memory import predict, width\n# measure\n" + SOURCE_ANSWER + "x = predict\n"
    module = "import course_lib.memory as library\n" + SOURCE_ANSWER + "x = library.predict\n"
    folder = a_class(tmp_path, ada=long, bob=long.replace("step 3", "point 3"), eve=own, dan=module)
    write_case(next(case for case in CASES if case.name == "edited_check"), folder / "fay")
    read = [read_submission(folder / name, asked) for name in ("ada", "bob", "dan", "eve", "fay")]
    found = {remark.students: remark.text for remark in remarks(read, asked)}
    assert "uses the library's library" in found["dan",]
    assert found["fay",].endswith("locked cells were edited (check-1-1)")
    assert "the same" in found["ada", "bob"]
    assert found["eve",].endswith("uses the library's predict")  # not `width`, which is a parameter
