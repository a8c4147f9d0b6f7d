"""Around the judgement: the sandbox that is missing, the gradebook that is killed, pages, tables, remarks."""

import csv
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from course_lib.cli import main
from course_lib.exercises import Case as Call
from course_lib.exercises import Exercise, exercises, judge, judge_outcomes
from course_lib.exercises.run import call
from course_lib.grading import grade as grading
from course_lib.grading.book import Book
from course_lib.grading.export import safe
from course_lib.grading.feedback import feedback_page, write_feedback
from course_lib.grading.inside.messages import BadMessage, decode, encode
from course_lib.grading.inside.program import statements
from course_lib.grading.integrity import remarks
from course_lib.grading.judge import hidden_cases, result_from_json
from course_lib.grading.plan import plan
from course_lib.grading.sandbox import Limits, NoSandbox, sandbox
from course_lib.grading.seccomp import program as seccomp_program
from course_lib.grading.submission import read_submission
from course_lib.grading.worker_process import Worker, WorkerGone
from tests.grading.needs import needs_bubblewrap
from tests.hostile.submissions import ONE_LAYER, SOURCE, Case, write_case

ROOT = Path(__file__).parents[2]


def a_class(folder, **answers):
    """One folder a student, each with an answer to 1.1."""
    for name, answer in answers.items():
        write_case(Case(name, 0.0, answer), folder / name)
    return folder


def grade(folder, *more):
    return main(["grade", str(folder), "--notebook", str(SOURCE), *more])


def test_without_bubblewrap_it_refuses_and_names_the_package(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NoSandbox, match="`bubblewrap`"), sandbox():
        pass
    with pytest.raises(NoSandbox, match="podman"), sandbox(container="python:3.11"):
        pass


def test_a_bubblewrap_that_may_not_work_is_said_at_once(tmp_path, monkeypatch):
    (tmp_path / "bwrap").write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(NoSandbox, match=r"No permissions .* user namespaces"), sandbox():
        pass


@needs_bubblewrap
def test_memory_is_counted_over_all_processes(tmp_path):
    """Each of them stays far below the limit on one process."""
    source = (
        "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n"
        "        kept = bytearray(os.urandom(1 << 20) * 40)\n        time.sleep(60)\ntime.sleep(60)"
    )
    with sandbox(Limits(seconds=20, memory=400 * 2**20)) as box, Worker(box) as worker:
        worker.send({"limits": {}, "seconds": 20.0}, 30)
        assert worker.receive(30) == {"ready": True}
        cells = [{"number": 0, "exercise": True, "source": source}]
        worker.send({"do": "build", "chapter": 1, "cells": cells, "names": ["f"]}, 30)
        assert worker.receive(30) == {"running": 0}
        with pytest.raises(WorkerGone, match=r"took .* GB of memory"):
            worker.receive(25)


def test_a_container_is_ended_with_its_worker(tmp_path, monkeypatch):
    """Its client's end does not end it."""
    (tmp_path / "podman").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\ncat > /dev/null\n')
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with sandbox(container="image") as box, Worker(box):
        time.sleep(0.3)
    started, ended = (tmp_path / "log").read_text().splitlines()
    assert ended == "kill " + started.split("--name ")[1].split()[0]


def test_the_filter_refuses_key_rings_and_namespaces_on_both_architectures():
    sizes = {machine: len(seccomp_program(machine)) for machine in ("x86_64", "aarch64", "riscv64")}
    assert sizes["x86_64"] == sizes["aarch64"] > 300
    assert sizes["riscv64"] == 0


def test_trust_has_to_be_typed_in_full(tmp_path, capsys):
    with pytest.raises(SystemExit):
        grade(tmp_path, "--trust-sub")
    assert "unrecognized arguments" in capsys.readouterr().err


def test_a_container_gets_the_same_limits(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "podman" else None)
    with sandbox(Limits(processes=9), container="image") as box:
        command = box.command(3, name="course-1")
        pairs = set(itertools.pairwise(command))
    assert {
        ("--network", "none"),
        ("--cap-drop", "ALL"),
        ("--pids-limit", "9"),
        ("--name", "course-1"),
        ("--shm-size", str(64 * 2**20)),
    } <= pairs
    (user,) = (second for first, second in pairs if first == "--user")
    assert 60_003 <= int(user.partition(":")[0]) < 64_000
    assert "--read-only" in command


def test_the_sandboxs_library_holds_no_references_and_no_grader():
    with sandbox(trust_submissions=True) as box:
        files = {str(path.relative_to(box.library)) for path in box.library.rglob("*.py")}
        text = "".join(path.read_text() for path in (box.library / "course_lib/exercises").glob("*.py"))
    assert not [name for name in files if "chapter" in name or "registry" in name or "judge" in name]
    assert "course_lib/adapters/lora.py" in files
    assert "reference" not in text.replace("references", "").replace("no reference", "")


def test_trusted_submissions_are_graded_by_the_same_judge(tmp_path):
    from course_lib.grading.judge import judge_submission

    asked = plan([SOURCE])
    folder = a_class(tmp_path, ada=ONE_LAYER) / "ada"
    with sandbox(trust_submissions=True) as box:
        result = judge_submission(read_submission(folder, asked), asked, box, b"seed")
    assert result.points == pytest.approx(12 + 2 * 3 / 5)
    assert result_from_json(result.as_json()) == result


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


SOURCE_ANSWER = ONE_LAYER.replace("2 * batch", "2 * layers * batch")


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
    judge_submission = grading.judge_submission

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
    from dataclasses import replace

    from course_lib.grading.judge import Result

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
    own = "from course_lib.memory import predict\n" + SOURCE_ANSWER + "x = predict\n"
    folder = a_class(tmp_path, ada=long, bob=long.replace("step 3", "point 3"), eve=own)
    read = [read_submission(folder / name, asked) for name in ("ada", "bob", "eve")]
    found = {remark.students: remark.text for remark in remarks(read, asked)}
    assert "the same" in found["ada", "bob"]
    assert "uses the library's predict" in found["eve",]


def test_only_what_the_answers_need_is_run():
    cells = [
        {
            "number": 0,
            "exercise": False,
            "source": "import numpy as np\nimport torch\nk = [1]\nk.append(2)\nslow()",
        },
        {"number": 1, "exercise": False, "source": "for m in range(9): W = m\ntable = {}\ntable['a'] = 1"},
        {"number": 2, "exercise": True, "source": "def f(W):\n    m = k\n    return np.ones(1) + len(m)"},
    ]
    chosen, broken = statements(cells, ["f"])
    assert [sorted(s.sets) for s in chosen] == [["np"], ["k"], ["k"], ["f"]]
    assert not broken


@pytest.mark.parametrize("body", [b"", b"\xff" * 9, b"\0\0\0\x02{}", encode([1])[4:] + b"x"])
def test_what_is_no_message_is_refused(body):
    with pytest.raises(BadMessage):
        decode(body)
    with pytest.raises(BadMessage):
        decode(_frame({"a": ["O", [1]]}))
    with pytest.raises(BadMessage):
        decode(_frame({"a": ["<f8", [10**9, 10**9]]}))


def _frame(head):
    text = json.dumps(head).encode()
    return len(text).to_bytes(4, "big") + text


@pytest.mark.parametrize("record", exercises(), ids=lambda record: record.id)
def test_arguments_and_answers_travel_unchanged(record):
    for case in hidden_cases(record, b"seed"):
        there = decode(encode(case.arguments)[4:])
        assert repr(there) == repr(case.arguments)


@pytest.mark.parametrize("record", exercises(), ids=lambda record: record.id)
def test_check_and_the_grader_agree(record: Exercise):
    """What `check` calls right is right, what it calls wrong is wrong; where inputs are the same, in the same
    properties.
    """
    public = {repr(case.arguments) for case in record.cases(np.random.default_rng(2024))}
    for answer in (record.reference, *(mistake.answer for mistake in record.mistakes)):
        told = judge(record, answer)
        for seed in (b"one", b"two", b"three"):
            cases: list[Call] = list(hidden_cases(record, seed))
            graded = judge_outcomes(record, cases, [call(answer, case.arguments) for case in cases])
            drawn = {case.property for case in cases if repr(case.arguments) not in public}
            assert graded.status == told.status, answer
            pairs = zip(graded.properties, told.properties, strict=True)
            assert all(ours == theirs or ours[0] in drawn for ours, theirs in pairs), answer
