"""Judging: answers run in the sandbox, inputs come from the instructor's seed, values are compared here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from course_lib.exercises import Case, Exercise, Verdict, judge_outcomes
from course_lib.exercises.check import PUBLIC_SEED
from course_lib.exercises.compare import plain
from course_lib.exercises.run import Outcome
from course_lib.grading.inside.messages import encode
from course_lib.grading.plan import Asked
from course_lib.grading.sandbox import Sandbox
from course_lib.grading.session import Session
from course_lib.grading.submission import Handed, Submission

_NO_EVIDENCE = "part of the points needs a result that is right on an input which `check` never shows."
_ANSWER = re.compile(r", but .{1,4000} is right\.?$", re.DOTALL)


@dataclass(frozen=True)
class Result:
    """What a submission earned: one verdict for each exercise asked, and sentences on what was odd."""

    student: str
    digest: str  # of the submission's files
    seed_id: str
    inputs_id: str  # of all inputs that were sent
    verdicts: tuple[Verdict, ...]
    prose: dict[str, str]  # "notebook/grade id" → what the student wrote; "" where nothing was changed
    notes: tuple[str, ...]

    @property
    def points(self) -> float:
        return sum(verdict.points for verdict in self.verdicts)

    @property
    def out_of(self) -> int:
        return sum(verdict.out_of for verdict in self.verdicts)

    def as_json(self) -> str:
        """The same text for the same result."""
        return json.dumps(asdict(self), sort_keys=True)


def result_from_json(text: str) -> Result:
    """The result that ``as_json`` wrote."""
    data = json.loads(text)
    verdicts = [v | {"properties": tuple(tuple(pair) for pair in v["properties"])} for v in data["verdicts"]]
    data["verdicts"] = tuple(Verdict(**verdict) for verdict in verdicts)
    data["notes"] = tuple(data["notes"])
    return Result(**data)


def seed_id(seed: bytes) -> str:
    """A name for the seed that does not tell it."""
    return hashlib.sha256(b"seed id" + seed).hexdigest()[:12]


def hidden_cases(record: Exercise, seed: bytes) -> Sequence[Case]:
    """The exercise's inputs under the instructor's seed."""
    number = int.from_bytes(hashlib.sha256(seed + record.id.encode()).digest(), "big")
    return record.cases(np.random.default_rng(number))


def inputs_id(asked: Sequence[Asked], seed: bytes) -> str:
    """A name for all inputs, which changes when an exercise's generator does."""
    digest = hashlib.sha256()
    for record in (record for one in asked for record in one.exercises):
        digest.update(encode([record.id, [case.arguments for case in hidden_cases(record, seed)]]))
    return digest.hexdigest()[:12]


def judge_submission(
    submission: Submission, asked: Sequence[Asked], box: Sandbox, seed: bytes, slot: int = 0
) -> Result:
    """Run and judge all of one student's notebooks in one sandbox. Never raises for what the student sent."""
    session = Session(box, slot)
    verdicts: list[Verdict] = []
    notes = list(submission.notes)
    prose: dict[str, str] = {}
    try:
        for one in asked:
            handed = submission.notebooks.get(one.name)
            verdicts += _judge_notebook(one, handed, session, seed, notes)
            for name in one.prose:
                prose[f"{one.name}/{name}"] = _prose(one, handed, name)
    finally:
        session.close()
    return Result(submission.student, submission.digest, seed_id(seed), inputs_id(asked, seed),
                  tuple(verdicts), prose, tuple(dict.fromkeys(notes)))  # fmt: skip


def _prose(one: Asked, handed: Handed | None, name: str) -> str:
    """The last cell of that grade id; nothing where it is as it was handed out."""
    written = [cell.source for cell in handed.cells if cell.grade_id == name] if handed else []
    changed = [source for source in written if source.strip() != one.handed_out[name].strip()]
    return changed[-1] if changed else ""


def _judge_notebook(
    one: Asked, handed: Handed | None, session: Session, seed: bytes, notes: list[str]
) -> list[Verdict]:
    if handed is None:
        return [_nothing(record, "the notebook was not handed in") for record in one.exercises]
    notes += [f"{one.name}: {note}" for note in (*handed.notes, *_oddities(one, handed))]
    session.open(one, handed)
    verdicts = [_judge_exercise(record, session, seed) for record in one.exercises]
    for cell, said in session.broken.items():
        notes.append(f"{one.name}, cell {cell + 1}: {said}")
    return verdicts


def _nothing(record: Exercise, why: str) -> Verdict:
    return Verdict(record.id, "not attempted", record.title, problem=why, out_of=record.points)


def _judge_exercise(record: Exercise, session: Session, seed: bytes) -> Verdict:
    cases = hidden_cases(record, seed)
    outcomes = session.ask(record, cases)
    if outcomes is None:
        why = session.why_missing(record)
        nothing = _nothing(record, why or "there is no answer of that name")
        return replace(nothing, status="wrong") if why else nothing
    try:
        verdict = judge_outcomes(record, cases, outcomes)
    except (ArithmeticError, ValueError, TypeError, RecursionError, MemoryError) as error:
        return replace(
            _nothing(record, f"the result cannot be compared ({type(error).__name__})"), status="wrong"
        )
    return _without_answers(_with_evidence(record, verdict, cases, outcomes))


def _with_evidence(
    record: Exercise, verdict: Verdict, cases: Sequence[Case], outcomes: Sequence[Outcome]
) -> Verdict:
    """Part of the points only for an answer that computes: it does not say the same whatever it is asked, and
    it is right on an input that nobody could know, or gives on all inputs what a known mistake gives.
    """
    if verdict.status != "wrong" or not verdict.points:
        return verdict
    wanted = {encode(plain(record.reference(*case.arguments))) for case in cases}
    if len(wanted) > 1 and len({encode(outcome.value) for outcome in outcomes}) == 1:
        return replace(verdict, points=0.0)
    public = {encode(case.arguments) for case in record.cases(np.random.default_rng(PUBLIC_SEED))}
    secret = [pair for pair in zip(cases, outcomes, strict=True) if encode(pair[0].arguments) not in public]
    computes = any(judge_outcomes(record, [c], [o]).status == "correct" for c, o in secret)
    if verdict.mistake or computes:
        return verdict
    return replace(verdict, points=0.0, hint=verdict.hint or _NO_EVIDENCE)


def _without_answers(verdict: Verdict) -> Verdict:
    """The verdict without the value that would have been right on a hidden input."""
    problem = _ANSWER.sub(", which is not right", verdict.problem) if verdict.problem else None
    return replace(verdict, problem=problem)


def _oddities(one: Asked, handed: Handed) -> list[str]:
    """Sentences on cells that are missing, there twice, of another kind or another version."""
    ids = [cell.grade_id for cell in handed.cells if cell.grade_id]
    said = []
    twice = sorted({name for name in ids if ids.count(name) > 1 and name in one.handed_out})
    missing = sorted(set(one.handed_out) - set(ids))
    other = sorted(set(ids) - set(one.handed_out))
    kinds = {grade_id: kind for kind, grade_id, _ in one.cells if grade_id}
    retyped = sorted(
        {c.grade_id for c in handed.cells if c.grade_id in kinds and c.kind != kinds[c.grade_id]}
    )
    for names, text in ((twice, "there twice"), (missing, "missing"), (retyped, "of another type"),
                        (other, "of another version of the course")):  # fmt: skip
        if names:
            said.append(f"cells {text}: {', '.join(name[:30] for name in names[:8])}")
    order = [name for name in dict.fromkeys(ids) if name in one.handed_out]
    if order != [name for name in one.handed_out if name in set(order)]:
        said.append("cells stand in another order")
    return said
