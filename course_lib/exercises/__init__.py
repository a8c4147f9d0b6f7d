"""Exercises that answer a wrong attempt with the hint it deserves."""

from course_lib.exercises.check import Verdict, check, hint, judge, judge_outcomes
from course_lib.exercises.record import Case, Exercise, Mistake
from course_lib.exercises.registry import exercise, exercises

__all__ = [
    "Case",
    "Exercise",
    "Mistake",
    "Verdict",
    "check",
    "exercise",
    "exercises",
    "hint",
    "judge",
    "judge_outcomes",
]
