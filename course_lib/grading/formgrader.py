"""nbgrader's page for the questions that a person grades: the files it shows, and the server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.grading.plan import Asked
from course_lib.grading.submission import Handed, Submission
from course_lib.paths import write_text_atomically


def write_for_reading(folder: Path, submission: Submission, asked: tuple[Asked, ...]) -> None:
    """``autograded/STUDENT/NOTEBOOK/NOTEBOOK.ipynb``: answers and questions alone, no outputs, no markup."""
    for one in asked:
        handed = submission.notebooks.get(one.name)
        place = folder / "autograded" / submission.student / one.name
        place.mkdir(parents=True, exist_ok=True)
        text = nbformat.writes(_to_read(one, handed))  # type: ignore[no-untyped-call]
        write_text_atomically(place / f"{one.name}.ipynb", text, private=True)


def _to_read(one: Asked, handed: Handed | None) -> nbformat.NotebookNode:
    written = {cell.grade_id: cell.source for cell in handed.cells if cell.grade_id} if handed else {}
    cells, question = [], ""
    for kind, grade_id, source in one.cells:
        if grade_id is None:
            question = source if kind == "markdown" else question
            continue
        locked = one.marks[grade_id].get("locked")
        text = source if locked else written.get(grade_id, source)
        if grade_id in one.prose:
            cells.append(new_markdown_cell(question))  # type: ignore[no-untyped-call]
        cells.append(_cell(kind, text, one.marks[grade_id]))
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook: nbformat.NotebookNode = new_notebook(cells=cells, metadata=about)  # type: ignore[no-untyped-call]
    return notebook


def _cell(kind: str, text: str, mark: dict[str, object]) -> nbformat.NotebookNode:
    """A student's markup is shown as text: it must not run in the instructor's browser."""
    if kind == "markdown":
        plain = text.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")
        return new_markdown_cell(plain, metadata={"nbgrader": mark})  # type: ignore[no-untyped-call, no-any-return]
    return new_code_cell(text, metadata={"nbgrader": mark})  # type: ignore[no-untyped-call, no-any-return]


def open_formgrader(folder: Path, url: str, arguments: list[str]) -> int:
    """Start JupyterLab in the gradebook's folder with nbgrader's page; ends when the server does."""
    folder = folder.resolve()
    config = (
        f"c = get_config()\nc.CourseDirectory.root = {str(folder)!r}\nc.CourseDirectory.db_url = {url!r}\n"
    )
    write_text_atomically(folder / "nbgrader_config.py", config)
    for name in ("source", "release", "submitted"):
        (folder / name).mkdir(exist_ok=True)
    os.chdir(folder)
    command = [sys.executable, "-m", "jupyterlab", "--LabApp.default_url=/formgrader", *arguments]
    os.execv(sys.executable, command)
