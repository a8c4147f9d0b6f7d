"""What the grading subcommands of ``course`` do."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from course_lib.grading import collect as collecting
from course_lib.grading.book import Book
from course_lib.grading.export import export_csv
from course_lib.grading.feedback import write_feedback
from course_lib.grading.formgrader import open_formgrader
from course_lib.grading.grade import Row, grade_class, students
from course_lib.grading.integrity import remarks
from course_lib.grading.plan import Asked, plan
from course_lib.grading.report import write_report
from course_lib.grading.sandbox import sandbox
from course_lib.grading.submission import read_submission

Sources = Callable[[], list[Path]] | list[Path]


def collect(options: argparse.Namespace, sources: Sources) -> None:
    """Sort what the platform gave into folders."""
    deadline = datetime.fromisoformat(options.deadline) if options.deadline else None
    names, said = collecting.collect(options.source, options.to, deadline)
    for sentence in said:
        print(sentence)
    print(f"{len(names)} students in {options.to}; next: course grade {options.to}")


def grade(options: argparse.Namespace, sources: Sources, again: bool = False) -> int:
    """Grade a class; status 1 where somebody could not be graded."""
    asked, start = _asked(sources), time.monotonic()
    if not 1 <= options.workers <= 64:
        raise ValueError(f"--workers {options.workers}: between 1 and 64 students at a time")
    found = len(students(options.folder))
    if loose := sorted(Path(options.folder).glob("*.ipynb")):
        print(f"{len(loose)} notebooks lie beside the students' folders ({loose[0].name}, …): they belong to "
              "nobody and are left out", file=sys.stderr)  # fmt: skip
    with (
        sandbox(container=options.container, trust_submissions=options.trust_submissions) as box,
        Book(options.book, options.database) as book,
    ):
        rows = grade_class(options.folder, book, asked, box, options.workers, again, _progress(found))
    print(file=sys.stderr)
    for row in rows:
        print(f"{row.student:30} {row.points:7.2f} of {row.out_of}  {row.news}")
    new = sum(row.news == "graded" for row in rows)
    print(f"{len(rows)} students, {new} new results, {time.monotonic() - start:.0f} s. "
          f"Next: course formgrader (answers to read), course feedback, course export")  # fmt: skip
    return int(any(row.news == "failed" for row in rows))


def regrade(options: argparse.Namespace, sources: Sources) -> int:
    """Grade everyone again."""
    return grade(options, sources, again=True)


def feedback(options: argparse.Namespace, sources: Sources) -> None:
    """Write the students' pages."""
    with Book(options.book, options.database) as book:
        written = write_feedback(book, _asked(sources))
        print(f"{len(written)} pages in {book.folder / 'feedback'}")


def export(options: argparse.Namespace, sources: Sources) -> None:
    """Write the table."""
    with Book(options.book, options.database) as book:
        print(export_csv(book, _asked(sources), options.csv))


def report(options: argparse.Namespace, sources: Sources) -> None:
    """Write the instructor's page."""
    asked = _asked(sources)
    handed = [read_submission(folder, asked) for folder in students(options.folder)]
    with Book(options.book, options.database) as book:
        print(write_report(book, asked, remarks(handed, asked), options.to))


def formgrader(options: argparse.Namespace, sources: Sources) -> int:
    """Serve nbgrader's page until it is stopped."""
    with Book(options.book, options.database) as book:
        book.prepare(_asked(sources))
        folder, url = book.folder, book.url
    print("open the address with `formgrader?token=` below; Ctrl-C ends it", flush=True)
    root = ["--allow-root"] if os.geteuid() == 0 else []
    return open_formgrader(folder, url, [f"--port={options.port}", "--no-browser", *root])


def _asked(sources: Sources) -> tuple[Asked, ...]:
    return plan(sources() if callable(sources) else sources)


def _progress(total: int) -> Callable[[Row], None]:
    """A bar with names and an estimate, on stderr."""
    from tqdm import tqdm

    bar = tqdm(total=total, unit="student", file=sys.stderr)

    def step(row: Row) -> None:
        bar.set_postfix_str(row.student[:30], refresh=False)
        bar.update()
        if bar.n >= total:
            bar.close()

    return step
