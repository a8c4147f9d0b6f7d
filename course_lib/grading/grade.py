"""Grading a class: every student's folder, several at a time, and a row for everyone whatever happens."""

from __future__ import annotations

import hashlib
import queue
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from course_lib import __version__
from course_lib.exercises import Verdict
from course_lib.grading.book import Book
from course_lib.grading.formgrader import write_for_reading
from course_lib.grading.judge import Result, inputs_id, judge_submission, seed_id
from course_lib.grading.plan import Asked
from course_lib.grading.sandbox import Sandbox
from course_lib.grading.submission import read_submission, storable


@dataclass(frozen=True)
class Row:
    """One line of the summary."""

    student: str
    points: float
    out_of: int
    news: str  # "graded", "as before", "failed"


def students(folder: Path | str) -> list[Path]:
    """The students' folders: one each, links not followed. Raises FileNotFoundError where there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; `course collect ZIP` makes one")
    found = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.is_symlink() and p.name[0] != "."]
    if not found:
        raise FileNotFoundError(f"{folder} holds no folders: one for each student is expected")
    return found


def grade_class(
    folder: Path | str,
    book: Book,
    asked: tuple[Asked, ...],
    box: Sandbox,
    workers: int = 2,
    again: bool = False,
    progress: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Grade every student's folder; those that nothing has changed for are skipped, unless ``again``."""
    book.prepare(asked)
    seed, rows = book.seed, []
    state = (seed_id(seed), inputs_id(asked, seed))
    known = {} if again else {r.student: r for r in book.results()}
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(workers):
        slots.put(slot)

    def one(place: Path) -> tuple[Result, bool]:
        slot = slots.get()
        try:
            submission = read_submission(place, asked)
            before = known.get(submission.student)
            if before and (before.digest, before.seed_id, before.inputs_id) == (submission.digest, *state):
                return before, False
            result = judge_submission(submission, asked, box, seed, slot)
            write_for_reading(book.folder, submission, asked)
            return result, True
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(one, place): place for place in students(folder)}
        try:
            for place, job in _finished(jobs):
                rows.append(_enter(place, job, book, asked, state))
                progress(rows[-1])
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return sorted(rows, key=lambda row: row.student)


def _finished(
    jobs: dict[Future[tuple[Result, bool]], Path],
) -> Iterator[tuple[Path, Future[tuple[Result, bool]]]]:
    for job in as_completed(jobs):
        yield jobs[job], job


def _enter(
    place: Path,
    job: Future[tuple[Result, bool]],
    book: Book,
    asked: tuple[Asked, ...],
    state: tuple[str, str],
) -> Row:
    """Write one result to the gradebook; a fault of the grader's own is a row too."""
    try:
        result, new = job.result()
        news = "graded" if new and book.record(result, asked) else "as before"
    except Exception as error:  # the batch goes on, and the row says that a person has to look
        result, news = _failed(storable(place.name), asked, state, error), "failed"
        print(f"{result.student}: {type(error).__name__}: {error}", file=sys.stderr)
        try:
            book.record(result, asked)
        except Exception as again:  # the database itself: the next run finds nothing, and tries again
            print(f"{result.student}: not written, {type(again).__name__}: {again}", file=sys.stderr)
    return Row(result.student, result.points, result.out_of, news)


def _failed(student: str, asked: tuple[Asked, ...], state: tuple[str, str], error: Exception) -> Result:
    """Nothing judged: a digest of its own, so that the next run tries again."""
    note = f"the grader itself failed ({type(error).__name__}, version {__version__}): please look by hand"
    verdicts = tuple(
        Verdict(record.id, "not attempted", record.title, problem=note, out_of=record.points)
        for one in asked
        for record in one.exercises
    )
    digest = hashlib.sha256(f"failed {student}".encode()).hexdigest()
    return Result(student, digest, *state, verdicts, {}, (note,))
