"""Every exercise: its reference passes, its stub is not attempted, and every mistake gets its own hint."""

import ast
import inspect

import numpy as np
import pytest

from course_lib.exercises import exercises, judge

SEEDS = (2024, 7, 123456)
ALL = exercises()
MISTAKES = [(record, mistake) for record in ALL for mistake in record.mistakes]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("record", ALL, ids=lambda record: record.id)
def test_the_reference_is_correct(record, seed):
    verdict = judge(record.id, record.reference, seed)
    assert verdict.status == "correct", str(verdict)
    assert verdict.points == record.points
    assert all(held for _, held in verdict.properties)


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.id)
def test_the_stub_is_not_attempted(record):
    def stub(*arguments):
        raise NotImplementedError

    verdict = judge(record.id, stub)
    assert (verdict.status, verdict.points) == ("not attempted", 0)
    assert judge(record.id, lambda *arguments: None).status == "not attempted"
    assert judge(record.id, None).status == "not attempted"
    assert judge(record.id, ...).status == "not attempted"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("record", "mistake"), MISTAKES, ids=lambda item: getattr(item, "id", None) or item.name
)
def test_every_mistake_is_rejected_with_its_own_hint(record, mistake, seed):
    verdict = judge(record.id, mistake.answer, seed)
    assert verdict.status == "wrong"
    assert verdict.points < record.points
    assert (verdict.mistake, verdict.hint) == (mistake.name, mistake.hint)
    assert verdict.property
    assert verdict.failing_input


def is_plain(value):
    """A number, a string, an array of numbers, or a list of plain things: what JSON and npz can carry."""
    if type(value) in (list, tuple):
        return all(is_plain(part) for part in value)
    return type(value) in (int, float, str, bool) or (
        type(value) is np.ndarray and value.dtype.kind in "biuf"
    )


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.id)
def test_inputs_are_plain_and_follow_from_the_seed(record):
    first, again = (record.cases(np.random.default_rng(5)) for _ in range(2))
    other = record.cases(np.random.default_rng(6))
    assert all(is_plain(case.arguments) for case in first)
    assert [repr(case) for case in first] == [repr(case) for case in again]
    assert [repr(case) for case in first] != [repr(case) for case in other]
    assert all(len(case.arguments) == len(record.parameters) for case in first)


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.id)
def test_a_record_is_complete(record):
    assert len(record.mistakes) >= 5
    assert record.difficulty in (1, 2, 3)
    assert len(set(record.hints)) == 2
    assert all(len(text) <= 200 and text[-1] in ".?" for text in record.hints)
    assert not set(record.hints) & {mistake.hint for mistake in record.mistakes}
    assert len({mistake.hint for mistake in record.mistakes}) == len(record.mistakes)
    assert record.points > 0
    assert list(inspect.signature(record.reference).parameters)
    body = ast.parse(inspect.getsource(record.reference).strip()).body[0]
    assert len(body.args.args) == len(record.parameters)


def test_ids_are_numbered_within_their_chapter():
    for chapter in {record.chapter for record in ALL}:
        numbers = [int(record.id.split(".")[1]) for record in exercises(chapter)]
        assert numbers == list(range(1, len(numbers) + 1))
