"""All exercises of the course, by id."""

from __future__ import annotations

from course_lib.exercises import chapter1, chapter2, chapter3, chapter4, chapter5, chapter6
from course_lib.exercises.record import Exercise

_CHAPTERS = (chapter1, chapter2, chapter3, chapter4, chapter5, chapter6)
_ALL: dict[str, Exercise] = {record.id: record for chapter in _CHAPTERS for record in chapter.EXERCISES}


def exercise(exercise_id: str) -> Exercise:
    """The exercise called ``exercise_id`` ("1.2"); KeyError, listing what there is, for another name."""
    if type(exercise_id) is not str:
        raise KeyError(f"an exercise is named by a string; there are {', '.join(_ALL)}")
    if exercise_id not in _ALL:
        raise KeyError(f"there is no exercise {exercise_id!r}; there are {', '.join(_ALL)}")
    return _ALL[exercise_id]


def exercises(chapter: int | None = None) -> tuple[Exercise, ...]:
    """The exercises of a chapter, or all of them, in order."""
    return tuple(record for record in _ALL.values() if chapter in (None, record.chapter))
