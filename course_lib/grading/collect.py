"""What a learning platform hands over, sorted into one folder for each student.

Known layouts: a folder for each student (nbgrader, or by hand), Moodle's ``Name_123_assignsubmission_file_``
folders, and Canvas' flat ``name_LATE_123_456_file.ipynb``. The last of several submissions counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path, PurePosixPath

from course_lib.grading.submission import LARGEST, TIMES, collected, read_file
from course_lib.paths import write_atomically, write_text_atomically

_MOODLE = re.compile(r"^(?P<who>.+?)_(?P<number>\d+)_assignsubmission_(file|onlinetext)_?.*$")
_CANVAS = re.compile(r"^(?P<who>[^_]+)_(?P<late>LATE_)?(?P<number>\d+)_\d+_(?P<file>.+)$")
_AGAIN = re.compile(r"-\d+(?=\.ipynb$)")  # Canvas numbers a second upload of the same name
_MOST_FILES = 20_000
_MOST_BYTES = 8 * 2**30  # of an archive, unpacked
_LONGEST_NAME = 100  # bytes

Parts = tuple[str, ...]


@dataclass(frozen=True)
class _Owner:
    """Whose a file is, as its path says, and the file's own name."""

    who: str
    number: str  # the platform's, which tells namesakes apart; "" where it gives none
    name: str
    late: bool


@dataclass(frozen=True)
class _File:
    """A file that was found: ``content()`` reads it, or gives None and why not."""

    parts: Parts
    time: float  # seconds since 1970, as the platform wrote it
    content: Callable[[], tuple[bytes | None, str]]


def collect(
    source: Path | str, target: Path | str, deadline: datetime | None = None
) -> tuple[list[str], list[str]]:
    """Sort a zip or a folder into ``target/STUDENT/NOTEBOOK.ipynb``; returns the students, and sentences on
    what was left out. Again is no harm: a file replaces an older one only.
    """
    source, target = Path(source), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    if source.is_dir():
        return _sort(_in_folder(source), target, deadline, said)
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile:
        raise ValueError(f"{source} is no zip archive; give the platform's download, or a folder") from None
    with archive:
        return _sort(_in_zip(archive, said), target, deadline, said)


def _sort(
    found: Iterable[_File], target: Path, deadline: datetime | None, said: list[str]
) -> tuple[list[str], list[str]]:
    files = list(found)
    skip = _class_folder([file.parts for file in files], said)
    owners = [_owner(file.parts[skip:]) for file in files]
    names = _told_apart([owner for owner in owners if owner], said)
    for file, owner in zip(files, owners, strict=True):
        if owner is None:
            said.append(f"{_shown(file.parts[-1])}: left out, its name does not say whose it is")
            continue
        content, why = file.content()
        if content is None:
            said.append(f"{_shown('/'.join(file.parts))}: left out, {why}")
            continue
        student = names[owner.who, owner.number]
        for name, time, own in _notebooks(owner, file.time, content, said):
            late = owner.late or (deadline is not None and time > deadline.timestamp())
            _keep(target / student, name, time, late, own, said)
    kept = {names[owner.who, owner.number] for owner in owners if owner}
    return sorted(name for name in kept if (target / name).is_dir()), said


def _keep(folder: Path, name: str, time: float, late: bool, content: bytes, said: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    times = collected(folder)
    if times.get(name, {}).get("time", time) > time:
        said.append(f"{folder.name}: an older {name} was left out")
        return
    write_atomically(folder / name, lambda file: file.write(content), private=True)
    times[name] = {"time": time, "late": late}
    write_text_atomically(folder / TIMES, json.dumps(times, indent=1, sort_keys=True), private=True)
    if late:
        said.append(f"{folder.name}: {name} came late ({datetime.fromtimestamp(time):%Y-%m-%d %H:%M})")


def _wanted(parts: Parts) -> bool:
    """Notebooks and zips; not what Jupyter and macOS keep beside them."""
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)
    return bool(parts) and not hidden and parts[-1].lower().endswith((".ipynb", ".zip"))


def _in_folder(source: Path) -> Iterator[_File]:
    for place, folders, names in os.walk(source, followlinks=False):
        folders.sort()
        for path in (Path(place) / name for name in sorted(names)):
            if _wanted(path.relative_to(source).parts):
                time = path.lstat().st_mtime
                yield _File(path.relative_to(source).parts, time, lambda path=path: read_file(path))  # type: ignore[misc]


def _in_zip(archive: zipfile.ZipFile, said: list[str]) -> Iterator[_File]:
    """Regular notebooks and zips, the oldest first, read up to a size whatever the archive says of it."""
    left = [_MOST_BYTES]
    for entry in sorted(archive.infolist()[:_MOST_FILES], key=lambda entry: entry.date_time):
        parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
        if entry.is_dir() or not _wanted(parts):
            continue
        if problem := _improper(entry, parts):
            said.append(f"{_shown(entry.filename)}: left out, {problem}")
            continue
        yield _File(parts, _time(entry), lambda entry=entry: _unpacked(archive, entry, left))  # type: ignore[misc]


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, left: list[int]) -> tuple[bytes | None, str]:
    try:
        with archive.open(entry) as file:
            content = file.read(LARGEST + 1)
    except Exception as error:  # each method of compression has an error of its own
        return None, f"it cannot be unpacked ({type(error).__name__})"
    left[0] -= len(content)
    if len(content) > LARGEST or left[0] < 0:
        return None, f"it has more than {LARGEST / 1e6:.0f} MB unpacked"
    return content, ""


def _improper(entry: zipfile.ZipInfo, parts: Parts) -> str:
    if parts[0] == "/" or ".." in parts or ":" in parts[0]:
        return "its path leads out of the archive"
    kind = (entry.external_attr >> 16) & 0o170000
    return "it is a link or a special file" if kind not in (0, 0o100000) else ""


def _time(entry: zipfile.ZipInfo) -> float:
    try:
        return datetime(*entry.date_time).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _class_folder(found: Sequence[Parts], said: list[str]) -> int:
    """1 where everything lies in one folder that holds the students' folders (a class zipped by hand)."""
    deep = [parts for parts in found if len(parts) >= 3 and not any(map(_MOODLE.match, parts))]
    tops, inner = {parts[0] for parts in found}, {parts[1] for parts in deep}
    notebooks = {Path(parts[-1]).stem for parts in deep}
    if len(tops) != 1 or len(deep) != len(found) or len(inner) < 2 or inner <= notebooks:
        return 0
    said.append(f"{_shown(next(iter(tops)))} is taken as the class's folder, with one folder a student in it")
    return 1


def _owner(parts: Parts) -> _Owner | None:
    """Whose a file is; None where its path does not say."""
    *folders, name = parts
    told = _CANVAS.match(name)
    if not folders:
        if told is None:
            return None
        return _Owner(told["who"], told["number"], _AGAIN.sub("", told["file"]), bool(told["late"]))
    late = bool(told and told["late"])
    known = [match for match in map(_MOODLE.match, folders) if match]
    if known:
        return _Owner(known[-1]["who"], known[-1]["number"], name, late)
    return _Owner(folders[0], "", name, late)


def _told_apart(owners: Sequence[_Owner], said: list[str]) -> dict[tuple[str, str], str]:
    """A folder's name for everyone: namesakes get the platform's number, or a hash, behind theirs."""
    people: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for owner in owners:
        people[student_name(owner.who)].add((owner.who, owner.number))
    names = {}
    for name, same in sorted(people.items()):
        for who, number in sorted(same):
            mark = number or hashlib.sha256(os.fsencode(who)).hexdigest()[:6]
            names[who, number] = f"{name} {mark}" if len(same) > 1 else name
        if len(same) > 1:
            said.append(f"{len(same)} students are called {name}: told apart as "
                        f"{', '.join(names[person] for person in sorted(same))}")  # fmt: skip
    return names


def _notebooks(
    owner: _Owner, time: float, content: bytes, said: list[str]
) -> Iterator[tuple[str, float, bytes]]:
    """A notebook, or those in a student's own zip, which is opened once."""
    if not owner.name.lower().endswith(".zip"):
        yield _file_name(owner.name), time, content
        return
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            for file in _in_zip(archive, said):
                inner, why = file.content()
                if inner is None:
                    said.append(f"{_shown(owner.who)}: {_shown(file.parts[-1])} left out, {why}")
                elif file.parts[-1].lower().endswith(".ipynb"):
                    yield _file_name(file.parts[-1]), file.time, inner
    except (zipfile.BadZipFile, OSError, ValueError):
        said.append(f"{_shown(owner.who)}: a zip that cannot be read was left out")


def student_name(text: str) -> str:
    """A name for a folder, a key and a page: letters, digits, -._@ and space; the rest becomes _."""
    clean = "".join(c if c.isalnum() or c in " -._@'" else "_" for c in text).strip(" .")
    return clean.encode()[:_LONGEST_NAME].decode(errors="ignore").strip(" .") or "nameless"


def _file_name(text: str) -> str:
    return f"{student_name(text[: -len('.ipynb')])}.ipynb"


def _shown(text: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= 100 else clean[:97] + "…"
