"""What is run of a notebook, how values travel, and that `check` and the grader agree."""

import json

import numpy as np
import pytest

from course_lib.exercises import Case as Call
from course_lib.exercises import Exercise, exercises, judge, judge_outcomes
from course_lib.exercises.run import call
from course_lib.grading.inside.messages import BadMessage, decode, encode
from course_lib.grading.inside.program import statements
from course_lib.grading.judge import hidden_cases


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
