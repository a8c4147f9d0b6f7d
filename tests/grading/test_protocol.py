"""What is run of a notebook, how values travel, and that `check` and the grader agree."""

import json

import nbformat
import numpy as np
import pytest

from course_lib.exercises import Case as Call
from course_lib.exercises import Exercise, exercises, judge, judge_outcomes
from course_lib.exercises.run import call
from course_lib.grading.inside.messages import BadMessage, decode, encode
from course_lib.grading.inside.program import statements
from course_lib.grading.judge import hidden_cases
from course_lib.grading.plan import plan
from tests.grading.needs import ROOT


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


def chosen(source_cells, names):
    """Statements that are run, as text, of cells given as (source, is an exercise's)."""
    cells = [{"number": i, "exercise": mine, "source": text} for i, (text, mine) in enumerate(source_cells)]
    return [s for s in statements(cells, names)[0] if not s.check]


def test_a_name_that_means_something_else_elsewhere_does_not_bring_the_demonstration_in():
    cells = [
        ("f = slow(1)", False), ("def f():\n    return 1", True), ("f2 = f", False),
        ('check("1.1", f)', False), ("for f in slow(2): pass", False),
    ]  # fmt: skip
    assert [s.cell for s in chosen(cells, ["f"])] == [1]
    assert [s.cell for s in chosen([*cells[:2], ("def f():\n    return 2", False), *cells[3:]], ["f"])] == [
        1,
        2,
    ]
    assert [s.cell for s in chosen([("f = len", False), *cells[3:]], ["f"])] == [0]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda p: p.stem)
def test_no_demonstration_is_run_to_grade_a_notebook(path):
    """A class is billed for the exercises alone: of the other cells, imports and no more."""
    (asked,) = plan([path])
    cells = [
        (cell.source, bool(cell.metadata.get("nbgrader", {}).get("grade_id", "").startswith("ex-")))
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == "code"
    ]
    extra = [s for s in chosen(cells, list(asked.answers.values())) if not s.exercise]
    assert len(extra) <= 5
    assert all(s.imports for s in extra)
