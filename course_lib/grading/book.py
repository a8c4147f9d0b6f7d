"""The gradebook: nbgrader's own, with a table beside it to which every judgement is appended.

A submission is one transaction: after a kill it is there as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from nbgrader import api
from sqlalchemy import Column, Integer, MetaData, String, Table, Text, UniqueConstraint, desc, select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

import course_lib
from course_lib.grading.judge import Result, result_from_json
from course_lib.grading.plan import Asked

_RESULTS = Table(
    "course_results",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("student", String(128), nullable=False, index=True),
    Column("digest", String(64), nullable=False),
    Column("seed_id", String(32), nullable=False),
    Column("inputs_id", String(32), nullable=False),
    Column("course", String(32), nullable=False),  # version of the course that judged
    Column("fingerprint", String(64), nullable=False),  # of this row and of the one before it
    Column("graded_at", String(32), nullable=False),
    Column("result", Text, nullable=False),
    UniqueConstraint("student", "fingerprint"),
)


def _without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:…@", url)


def _again(work: Callable[[], Any]) -> Any:
    """Once more, a moment later, where another grader was making the same tables or rows."""
    for _ in range(5):
        try:
            return work()
        except (IntegrityError, ProgrammingError, OperationalError, api.InvalidEntry):
            time.sleep(0.5)
    return work()


@contextmanager
def _own_programs() -> Iterator[None]:
    """nbgrader calls ``alembic`` by name, which lies beside our Python, on the path or not."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


class Book:
    """A folder with ``gradebook.db``, the secret ``seed``, and what is made of them.

    ``url`` names another database (any that SQLAlchemy knows), for several graders at once.
    """

    def __init__(self, folder: Path | str, url: str | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.url = url or f"sqlite:///{(self.folder / 'gradebook.db').resolve()}"
        try:
            self.gradebook = _again(self._open)
        except (SQLAlchemyError, ImportError, CalledProcessError) as error:
            said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise RuntimeError(
                f"the gradebook {_without_password(self.url)} cannot be opened: {said}"
            ) from None

    def _open(self) -> api.Gradebook:
        with _own_programs():
            gradebook = api.Gradebook(self.url)
        _RESULTS.metadata.create_all(gradebook.engine)
        return gradebook

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: object) -> None:
        self.gradebook.close()

    @property
    def seed(self) -> bytes:
        """The instructor's secret, made once, readable by its owner alone."""
        path = self.folder / "seed"
        if not path.exists():
            new = path.with_name(f".seed.{os.getpid()}")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
            try:
                os.link(new, path)  # the first of two graders wins
            except FileExistsError:
                pass
            finally:
                new.unlink()
        return path.read_bytes().strip()

    def prepare(self, asked: tuple[Asked, ...]) -> None:
        """Enter assignments, cells and points; again is no harm."""
        _again(lambda: self._prepare(asked))

    def _prepare(self, asked: tuple[Asked, ...]) -> None:
        self.gradebook.db.rollback()
        for one in asked:
            self.gradebook.update_or_create_assignment(one.name)
            self.gradebook.update_or_create_notebook(one.name, one.name)
            for record in one.exercises:
                name = f"check-{record.id.replace('.', '-')}"
                self.gradebook.update_or_create_grade_cell(
                    name, one.name, one.name, max_score=float(record.points), cell_type="code"
                )
                self.gradebook.update_or_create_solution_cell(name.replace("check", "ex"), one.name, one.name)
            for name, points in one.prose.items():
                self.gradebook.update_or_create_grade_cell(
                    name, one.name, one.name, max_score=points, cell_type="markdown"
                )
                self.gradebook.update_or_create_solution_cell(name, one.name, one.name)

    def latest(self, student: str) -> tuple[Result, str] | None:
        """The last judgement of a student, and the version of the course that made it."""
        row = self._last(student)
        return (result_from_json(row.result), row.course) if row else None

    def results(self) -> list[Result]:
        """The last judgement of everyone, by name."""
        found: dict[str, str] = {}
        for row in self.gradebook.db.execute(select(_RESULTS).order_by(_RESULTS.c.id)):
            found[row.student] = row.result
        return [result_from_json(found[name]) for name in sorted(found)]

    def record(self, result: Result, asked: tuple[Asked, ...]) -> bool:
        """Append a judgement and set the grades, in one transaction. False where nothing is new."""
        before = self._last(result.student)
        text = result.as_json()
        if before and (before.result, before.course) == (text, course_lib.__version__):
            return False
        chain = "\n".join([before.fingerprint if before else "", course_lib.__version__, text])
        database = self.gradebook.db
        try:
            database.execute(_RESULTS.insert().values(
                student=result.student, digest=result.digest, seed_id=result.seed_id,
                inputs_id=result.inputs_id, course=course_lib.__version__, result=text,
                graded_at=datetime.now(UTC).isoformat(timespec="seconds"),
                fingerprint=hashlib.sha256(chain.encode()).hexdigest(),
            ))  # fmt: skip
            self._set_grades(result, asked, result_from_json(before.result) if before else None)
            database.commit()
        except IntegrityError:  # another grader has just written the same
            database.rollback()
            return False
        except BaseException:
            database.rollback()
            raise
        return True

    def prose_points(self) -> dict[tuple[str, str], tuple[float, bool]]:
        """(student, notebook/grade id) → points by hand, and whether they are still to be given."""
        rows = self.gradebook.db.query(api.Grade).join(api.BaseCell, api.Grade.cell_id == api.BaseCell.id)
        found = {}
        for grade in rows.filter(api.BaseCell.name.startswith("ex-")):
            key = (grade.student.id, f"{grade.notebook.name}/{grade.name}")
            found[key] = (float(grade.score or 0.0), bool(grade.needs_manual_grade))
        return found

    def comments(self) -> dict[tuple[str, str], str]:
        """(student, notebook/grade id) → what a person wrote to an answer."""
        rows = self.gradebook.db.query(api.Comment).filter(api.Comment.manual_comment.isnot(None))
        return {(c.student.id, f"{c.notebook.name}/{c.name}"): str(c.manual_comment).strip() for c in rows}

    def _last(self, student: str):  # type: ignore[no-untyped-def]
        query = select(_RESULTS).where(_RESULTS.c.student == student).order_by(desc(_RESULTS.c.id)).limit(1)
        return self.gradebook.db.execute(query).first()

    def _set_grades(self, result: Result, asked: tuple[Asked, ...], before: Result | None) -> None:
        database = self.gradebook.db
        student = database.get(api.Student, result.student) or api.Student(id=result.student)
        database.add(student)
        verdicts = {verdict.exercise: verdict for verdict in result.verdicts}
        for one in asked:
            grades = self._grades(student, one)
            for record in one.exercises:
                grade = grades[f"check-{record.id.replace('.', '-')}"]
                grade.auto_score, grade.needs_manual_grade = verdicts[record.id].points, False
            for name in one.prose:
                key = f"{one.name}/{name}"
                if before is None or before.prose.get(key) != result.prose.get(key):
                    grades[name].needs_manual_grade = bool(result.prose.get(key))
                    grades[name].auto_score = None if result.prose.get(key) else 0.0

    def _grades(self, student: api.Student, one: Asked) -> dict[str, api.Grade]:
        """The student's grades of a notebook by the cell's name; made where they are not there."""
        database = self.gradebook.db
        assignment = self.gradebook.find_assignment(one.name)
        found = database.query(api.SubmittedAssignment).filter_by(
            assignment_id=assignment.id, student_id=student.id
        )
        submitted = found.first() or api.SubmittedAssignment(assignment=assignment, student=student)
        database.add(submitted)
        notebook = assignment.notebooks[0]
        handed = next(iter(submitted.notebooks), None)
        if handed is None:
            handed = api.SubmittedNotebook(notebook=notebook, assignment=submitted)
            database.add(handed)
        commented = {comment.cell for comment in handed.comments}
        for cell in notebook.solution_cells:
            if cell not in commented:
                database.add(api.Comment(cell=cell, notebook=handed))
        grades = {grade.cell.name: grade for grade in handed.grades}
        for cell in notebook.grade_cells:
            if cell.name not in grades:
                grades[cell.name] = api.Grade(cell=cell, notebook=handed)
                database.add(grades[cell.name])
        return grades
