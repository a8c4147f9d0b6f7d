"""``check``: a verdict on an answer, the property that broke on the smallest input, and the hint it
deserves.
"""

from __future__ import annotations

import html
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from course_lib.exercises.compare import difference, plain, shown
from course_lib.exercises.record import Case, Exercise, Mistake
from course_lib.exercises.registry import exercise
from course_lib.exercises.run import LATE, NOTHING, Outcome, call, call_all

Status = Literal["correct", "wrong", "not attempted", "unknown exercise"]
PUBLIC_SEED = 2024  # of the inputs that everybody sees
_GREY = "#6b7280"
_MARKS = {"correct": ("✓", "#2a7d4f"), "wrong": ("✗", "#b3452c"), "not attempted": ("…", _GREY)}
_SAID = {"correct": "correct", "wrong": "not yet right", "not attempted": "not attempted yet",
         "unknown exercise": "unknown"}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What ``check`` found. ``properties`` says of each named property whether it held on all inputs."""

    exercise: str
    status: Status
    title: str = ""
    property: str | None = None  # that broke: completes "your answer should …"
    failing_input: str | None = None  # the smallest on which it broke, "name = value, …"
    problem: str | None = None
    mistake: str | None = None  # name of the mistake that gives just these results
    hint: str | None = None
    properties: tuple[tuple[str, bool], ...] = ()
    points: float = 0.0
    out_of: int = 0

    def __str__(self) -> str:
        told = [self._head(), *(f"  {line}" for line in self._lines())]
        if self._steps():
            told.append(f'  More help: course_lib.exercises.hint("{self.exercise}"), then step 2')
        return "\n".join(told)

    def __repr__(self) -> str:
        return f"<Verdict on exercise {self.exercise}: {self.status}>"

    def _ipython_display_(self) -> None:
        """Nothing: ``check`` has shown it already when it stands at the end of a cell."""

    def html(self) -> str:
        """The verdict as a notebook shows it."""
        colour = _MARKS.get(self.status, ("", _GREY))[1]
        lines = "".join(f"<div>{_code(html.escape(line))}</div>" for line in self._lines())
        for number, text in enumerate(self._steps(), start=1):
            folded = f"<summary>Hint {number}</summary>{_code(html.escape(text))}"
            lines += f"<details style='color:{_GREY}'>{folded}</details>"
        return (
            f"<div style='border-left:4px solid {colour};padding:2px 12px;line-height:1.5'>"
            f"<b style='color:{colour}'>{html.escape(self._head())}</b>{lines}</div>"
        )

    def _head(self) -> str:
        title = f" – {self.title}" if self.title else ""
        return (
            f"{_MARKS.get(self.status, ('?', ''))[0]} Exercise {self.exercise}{title}: {_SAID[self.status]}"
        )

    def _lines(self) -> list[str]:
        """What is said below the headline."""
        problem = f"{self.problem[0].upper()}{self.problem[1:]}" if self.problem else ""
        stop = "" if problem.endswith(("?", ".", "!")) else "."
        lines = [f"Your answer should {self.property}."] if self.property else []
        if self.failing_input:
            lines.append(f"On {self.failing_input}: {self.problem}{stop}")
        elif problem:
            lines.append(f"{problem}{stop}")
        record = _known(self.exercise) if self.status == "not attempted" else None
        if record is not None:
            lines.append(f"{record.stars}, {record.points} points")
        return [*lines, f"Hint: {self.hint}"] if self.hint else lines

    def _steps(self) -> tuple[str, ...]:
        """The exercise's two hints, for who has not solved it."""
        record = _known(self.exercise) if self.status in ("wrong", "not attempted") else None
        return record.hints if record else ()


def _known(exercise_id: str) -> Exercise | None:
    try:
        return exercise(exercise_id)
    except KeyError:
        return None


def _code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def check(exercise_id: str, answer: Any) -> Verdict:
    """Show a verdict on ``answer`` (a function, a number or an array) with a hint; never raises.

    An answer that is not there yet is "not attempted", and the notebook goes on.
    """
    try:
        verdict = judge(exercise_id, answer)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever an answer is, the notebook goes on
        problem = f"the answer cannot be called ({type(error).__name__})"
        verdict = Verdict(exercise_id if type(exercise_id) is str else "?", "wrong", problem=problem)
    _show(verdict)
    return verdict


def hint(exercise_id: str, step: int = 1) -> None:
    """Print the first hint to an exercise, or the second, which says nearly all."""
    record = _known(exercise_id)
    if record is None or step not in (1, 2):
        print(f"hint({exercise_id!r}, {step!r}): an exercise such as '1.1', and step 1 or 2")
    else:
        print(f"Exercise {record.id}, hint {step}: {record.hints[step - 1]}")


def _show(verdict: Verdict) -> None:
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        ipython.display.display({"text/plain": str(verdict), "text/html": verdict.html()}, raw=True)
    else:
        print(verdict)


def judge(exercise_id: str | Exercise, answer: Any, seed: int = PUBLIC_SEED) -> Verdict:
    """The verdict alone, on inputs generated from ``seed``; shows nothing."""
    try:
        record = exercise_id if isinstance(exercise_id, Exercise) else exercise(exercise_id)
    except KeyError as error:
        name = exercise_id if type(exercise_id) is str else "?"
        return Verdict(name, "unknown exercise", problem=str(error.args[0]))
    if answer is None or answer is Ellipsis:
        return _verdict(record, "not attempted")
    if record.parameters and not callable(answer):
        wanted = f"a function of ({', '.join(record.parameters)}) is asked for"
        return _verdict(record, "wrong", problem=f"{wanted}, this is {shown(answer)}")
    if callable(answer) and (problem := _wrong_signature(record, answer)):
        return _verdict(record, "wrong", problem=problem)
    cases = record.cases(np.random.default_rng(seed))
    return judge_outcomes(record, cases, _run(answer if callable(answer) else lambda: answer, cases))


def judge_outcomes(record: Exercise, cases: Sequence[Case], outcomes: Sequence[Outcome]) -> Verdict:
    """The verdict on results that were computed anywhere (grading computes them in a sandbox)."""
    if outcomes and all(outcome.unattempted for outcome in outcomes):
        nothing = outcomes[0].problem if outcomes[0].problem == NOTHING else None
        return _verdict(record, "not attempted", problem=nothing)
    problems = [_problem(record, case, outcome) for case, outcome in zip(cases, outcomes, strict=True)]
    held = _held(cases, problems)
    points = record.points * sum(ok for _, ok in held) / len(held)
    first = next((i for i, problem in enumerate(problems) if problem), None)
    if first is None:
        return _verdict(record, "correct", properties=held, points=points)
    mistake = _recognise(record, cases, outcomes)
    return _verdict(
        record, "wrong", property=cases[first].property, problem=problems[first], properties=held,
        failing_input=_input_text(record, cases[first]), points=points,
        mistake=mistake.name if mistake else None, hint=mistake.hint if mistake else None,
    )  # fmt: skip


def _held(cases: Sequence[Case], problems: Sequence[str | None]) -> tuple[tuple[str, bool], ...]:
    """Each property, and whether it held on all of its inputs."""
    broken = {case.property for case, problem in zip(cases, problems, strict=True) if problem}
    return tuple((name, name not in broken) for name in dict.fromkeys(case.property for case in cases))


def _run(answer: Callable[..., Any], cases: Sequence[Case]) -> list[Outcome]:
    outcomes = list(call_all(answer, (case.arguments for case in cases)))
    return outcomes + [LATE] * (len(cases) - len(outcomes))


def _problem(record: Exercise, case: Case, outcome: Outcome) -> str | None:
    if outcome.problem:
        return outcome.problem
    expected = plain(record.reference(*case.arguments))
    return difference(expected, outcome.value, record.tolerance, record.returns)


def _recognise(record: Exercise, cases: Sequence[Case], outcomes: Sequence[Outcome]) -> Mistake | None:
    """The known mistake whose results are exactly these on every input; None where there is none."""
    if any(outcome.problem for outcome in outcomes):
        return None
    for mistake in record.mistakes:
        wrong = [call(mistake.answer, case.arguments) for case in cases]
        pairs = zip(wrong, outcomes, strict=True)
        if all(not w.problem and difference(w.value, o.value, record.tolerance) is None for w, o in pairs):
            return mistake
    return None


def _wrong_signature(record: Exercise, answer: Callable[..., Any]) -> str | None:
    """A sentence where the function cannot take the arguments it will get."""
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # a builtin without a signature: the call will tell
        return None
    try:
        signature.bind(*record.parameters)
    except TypeError:
        wanted = ", ".join(record.parameters)
        return f"your function takes {signature}, it will be called with ({wanted})"
    return None


def _input_text(record: Exercise, case: Case) -> str:
    pairs = zip(record.parameters, case.arguments, strict=True)
    return ", ".join(f"{name} = {shown(value)}" for name, value in pairs)


def _verdict(record: Exercise, status: Status, **found: Any) -> Verdict:
    return Verdict(record.id, status, record.title, out_of=record.points, **found)
