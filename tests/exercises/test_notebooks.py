"""Exercises and notebooks belong together: cells, metadata, points and solutions agree with the records."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from course_lib.exercises import exercise, exercises, judge

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
CHAPTERS = {int(path.name[:2]): json.loads(path.read_text())["cells"] for path in NOTEBOOKS}
IN_NOTEBOOKS = [record for record in exercises() if record.chapter in CHAPTERS]


def cells(record):
    """The exercise's two cells: its answer, and its check."""
    tag = record.id.replace(".", "-")
    found = {cell["metadata"].get("nbgrader", {}).get("grade_id"): cell for cell in CHAPTERS[record.chapter]}
    return found[f"ex-{tag}"], found[f"check-{tag}"]


@pytest.mark.parametrize("record", IN_NOTEBOOKS, ids=lambda record: record.id)
def test_an_exercise_has_an_answer_cell_and_a_locked_check_worth_its_points(record):
    answer, check = cells(record)
    told = {"schema_version": 3, "task": False}
    assert answer["metadata"]["nbgrader"] == told | {
        "grade_id": answer["metadata"]["nbgrader"]["grade_id"], "grade": False, "locked": False,
        "solution": True,
    }  # fmt: skip
    assert check["metadata"]["nbgrader"] == told | {
        "grade_id": check["metadata"]["nbgrader"]["grade_id"], "grade": True, "locked": True,
        "solution": False, "points": record.points,
    }  # fmt: skip


@pytest.mark.parametrize("record", IN_NOTEBOOKS, ids=lambda record: record.id)
def test_the_solution_is_correct_and_named_as_the_check_expects(record):
    answer, check = cells(record)
    called = re.fullmatch(rf'check\("{re.escape(record.id)}", (\w+)\)', "".join(check["source"]))
    assert called, check["source"]
    source = "".join(answer["source"])
    assert "### BEGIN SOLUTION" in source
    space = {"np": np}
    exec(source, space)
    assert judge(record, space[called[1]], seed=99).status == "correct"
    shown = "".join("".join(output["data"]["text/plain"]) for output in check["outputs"])
    assert shown == f"✓ Exercise {record.id} – {record.title}: correct"


@pytest.mark.parametrize("record", IN_NOTEBOOKS, ids=lambda record: record.id)
def test_the_heading_tells_difficulty_and_points(record):
    sources = [
        "".join(cell["source"]) for cell in CHAPTERS[record.chapter] if cell["cell_type"] == "markdown"
    ]
    (text,) = [source for source in sources if source.startswith(f"### Exercise {record.id}:")]
    assert text.splitlines()[2] == f"{record.stars}, {record.points} points"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_exercise_is_missing_and_none_is_unknown(chapter):
    sources = ["".join(cell["source"]) for cell in CHAPTERS[chapter] if cell["cell_type"] == "code"]
    checked = [name for source in sources for name in re.findall(r'check\("([\d.]+)"', source)]
    assert checked == [record.id for record in exercises(chapter)]
    assert all(exercise(name) for name in checked)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_grade_ids_are_unique_and_a_question_is_graded_by_hand(chapter):
    marks = [cell["metadata"]["nbgrader"] for cell in CHAPTERS[chapter] if "nbgrader" in cell["metadata"]]
    assert len({mark["grade_id"] for mark in marks}) == len(marks)
    assert any(mark["grade"] and mark["solution"] for mark in marks)
