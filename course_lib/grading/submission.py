"""One student's files, read without trusting them: bounded, regular files only, whatever is in them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_lib.grading.plan import CHECK, Asked

LARGEST = 64 * 2**20  # bytes of a notebook
_MOST_PARTS = 5_000_000  # commas and brackets: more would cost more memory than a notebook should
_LONGEST_CELL = 100_000  # characters
_MOST_CELLS = 2_000
_MOST_CODE = 4_000_000  # characters of all cells
TIMES = ".collected.json"  # by file name: when it came, and whether late; written by `course collect`
_LONGEST_NAME = 120  # bytes: fits a file name with its ending, and a database's key


@dataclass(frozen=True)
class Cell:
    """A cell as handed in."""

    number: int
    kind: str
    grade_id: str | None
    source: str


@dataclass(frozen=True)
class Handed:
    """A notebook as handed in for one of the course's, and sentences on what is odd about it."""

    file: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submission:
    """All that one student handed in: by the name of the course's notebook."""

    student: str
    notebooks: dict[str, Handed]
    notes: tuple[str, ...]
    digest: str  # of the files' bytes and names
    files: tuple[str, ...] = field(default=())


def read_submission(folder: Path, asked: Sequence[Asked]) -> Submission:
    """Read every notebook in a student's folder; never raises for what is in it."""
    found: dict[str, Handed] = {}
    notes: list[str] = []
    digest = hashlib.sha256()
    times = collected(folder)
    own = {a.name for a in asked}
    files = sorted(_files(folder, notes), key=lambda p: (_time(times, p.name), p.stem in own, p.name))
    for path in files:  # the last to come counts; of those without a time, one with the course's own name
        content, said = read_file(path)
        digest.update(hashlib.sha256(os.fsencode(path.name) + b"\0" + (content or b"")).digest())
        handed = _handed(path.name, content) if content is not None else said
        if isinstance(handed, str):
            notes.append(f"{shown_name(path.name)}: {handed}")
            continue
        _place(handed, path.stem, asked, found, notes)
        if times.get(path.name, {}).get("late") is True:
            notes.append(f"{shown_name(path.name)}: handed in late")
            digest.update(b"late")
    if not files:
        notes.append("there is no notebook in this submission")
    student, names = storable(folder.name), tuple(path.name for path in files)
    return Submission(student, found, tuple(notes), digest.hexdigest(), names)


def storable(name: str) -> str:
    """A folder's name where it can be a key and a file's name; else a readable part of it and a hash."""
    raw = os.fsencode(name)
    if name.isprintable() and len(raw) <= _LONGEST_NAME:
        return name
    clean = "".join(c if c.isprintable() else "_" for c in name).encode()[: _LONGEST_NAME - 12]
    return f"{clean.decode(errors='ignore')} {hashlib.sha256(raw).hexdigest()[:8]}"


def collected(folder: Path) -> dict[str, dict[str, Any]]:
    """What `course collect` wrote of a student's files; nothing where it did not."""
    try:
        times = json.loads(read_file(folder / TIMES)[0] or b"{}")
        return {str(name): dict(about) for name, about in times.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _time(times: dict[str, dict[str, Any]], name: str) -> float:
    time = times.get(name, {}).get("time")
    return float(time) if isinstance(time, (int, float)) else 0.0


def read_file(path: Path) -> tuple[bytes | None, str]:
    """The bytes of a regular file, or None and why not. A link, a pipe or a device is never opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None, "it is not a file that can be read (a link?)"
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            return None, "it is not a regular file"
        if about.st_size > LARGEST:
            return (
                None,
                f"it has {about.st_size / 1e6:.0f} MB; {LARGEST / 1e6:.0f} MB are read (clear its outputs)",
            )
        return file.read(LARGEST + 1), ""


def _files(folder: Path, notes: list[str]) -> list[Path]:
    """Notebooks, two levels deep at most; links to folders are not followed."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=False):
        if len(Path(place).relative_to(folder).parts) >= 2:
            folders.clear()
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
        found += [Path(place) / name for name in sorted(names) if name.lower().endswith(".ipynb")]
        if len(found) > 100:
            notes.append("there are more than 100 notebooks; the first 100 are read")
            return found[:100]
    return found


def _handed(name: str, content: bytes) -> Handed | str:
    """The notebook's cells, or a sentence on why there are none."""
    if not content.strip():
        return "the file is empty"
    if content.count(b",") + content.count(b"[") + content.count(b"{") > _MOST_PARTS:
        return "it has millions of parts: no notebook that a person wrote"
    try:
        notebook = json.loads(content)
        cells = notebook.get("cells")
        if cells is None:
            cells = [cell for sheet in notebook["worksheets"] for cell in sheet["cells"]]
        read = tuple(_cell(i, cell) for i, cell in enumerate(cells[:_MOST_CELLS]) if isinstance(cell, dict))
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return "it cannot be read as a notebook (is the file whole?)"
    if sum(len(cell.source) for cell in read) > _MOST_CODE:
        return "its cells hold millions of characters: no notebook that a person wrote"
    return Handed(name, read, tuple(_language(notebook)))


def _language(notebook: dict[str, Any]) -> list[str]:
    about = notebook.get("metadata")
    kernel = about.get("kernelspec") if isinstance(about, dict) else None
    language = str(kernel.get("language", "python")) if isinstance(kernel, dict) else "python"
    return (
        []
        if language.lower() == "python"
        else [f"its kernel is not Python ({language[:20]}); it is read as Python"]
    )


def _cell(number: int, cell: dict[str, Any]) -> Cell:
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    about = cell.get("metadata")
    mark = about.get("nbgrader") if isinstance(about, dict) else None
    grade_id = mark.get("grade_id") if isinstance(mark, dict) else None
    text = source.encode(errors="replace").decode() if isinstance(source, str) else ""  # no lone surrogates
    name = grade_id if isinstance(grade_id, str) else None
    return Cell(number, str(cell.get("cell_type")), name, text[:_LONGEST_CELL])


def _place(
    handed: Handed, stem: str, asked: Sequence[Asked], found: dict[str, Handed], notes: list[str]
) -> None:
    """Under the name of the course's notebook that it answers: by its cells, else by its file name."""
    ids = {cell.grade_id for cell in handed.cells if cell.grade_id}
    shared = {a.name: len(ids & set(a.handed_out)) for a in asked}
    best = max(asked, key=lambda a: (shared[a.name], a.name == stem))
    if not shared[best.name] and best.name != stem:
        names = {n for cell in handed.cells for n, _ in CHECK.findall(cell.source)}
        best = max(asked, key=lambda a: len(names & set(a.answers)))
        if not names & set(best.answers):
            notes.append(f"{shown_name(handed.file)}: it is none of the course's notebooks")
            return
    if stem != best.name:
        notes.append(f"{shown_name(handed.file)}: read as {best.name}")
    if best.name in found:
        notes.append(f"{best.name} was handed in twice; {shown_name(handed.file)} counts")
    found[best.name] = handed


def shown_name(text: str) -> str:
    """A file's name as it may be shown."""
    clean = "".join(c if c.isprintable() else "?" for c in text.encode(errors="replace").decode())
    return clean if len(clean) <= 60 else clean[:57] + "…"
