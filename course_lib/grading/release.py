"""The student version of a notebook: solutions and outputs gone, nothing else changed (nbgrader's own
rules).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor
from nbformat import NotebookNode
from nbgrader.preprocessors import ClearSolutions

from course_lib.paths import write_text_atomically


def student_version(notebook: NotebookNode) -> NotebookNode:
    """A copy without solutions: regions between BEGIN and END SOLUTION become nbgrader's stub, outputs are
    cleared.

    Raises RuntimeError (nbgrader's, naming the cell) where a region is not closed or stands in a cell that
    is not
    marked as a solution.
    """
    student: NotebookNode = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]
    resources: dict[str, object] = {}
    for step in (ClearSolutions(enforce_metadata=True), ClearOutputPreprocessor(enabled=True)):
        student, resources = step.preprocess(student, resources)
    return student


def release(notebooks: Iterable[Path | str], folder: Path | str) -> list[Path]:
    """Write the student version of every notebook into ``folder``; returns the files, in order."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in map(Path, notebooks):
        student = student_version(nbformat.read(path, as_version=4))  # type: ignore[no-untyped-call]
        write_text_atomically(folder / path.name, nbformat.writes(student))  # type: ignore[no-untyped-call]
        written.append(folder / path.name)
    return written
