"""Grading: exact grades for hostile submissions, CPU time beside ``nbgrader autograde``, a class of 200,
memory, and a grader that is killed in mid-class.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from bench import Row, arguments, finish

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
COURSE = [sys.executable, "-m", "course_lib.cli"]
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1",
                   PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))  # fmt: skip


def main() -> None:
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        rows = [*hostile(place / "hostile"), *speed(place / "speed", options.full)]
        rows += a_class(place / "class", 200 if options.full else 24)
    finish(rows, options, "ours", "bar or peer")


def hostile(place: Path) -> list[Row]:
    """Share of exact grades, and files outside that changed."""
    from course_lib.grading.book import Book
    from course_lib.grading.grade import grade_class
    from course_lib.grading.plan import plan
    from course_lib.grading.sandbox import Limits, sandbox
    from tests.hostile.submissions import CASES, SOURCE, write_case

    for case in CASES:
        write_case(case, place / "class" / case.name)
    with sandbox(Limits(seconds=1.5)) as box, Book(place / "book") as book:
        watched = (place / "class", box.library, ROOT / "course_lib/grading")
        before = hashes(*watched)
        given = {row.student: row.points for row in grade_class(place / "class", book, plan([SOURCE]), box)}
        after = hashes(*watched)
    exact = sum(abs(given.get(case.name, -1) - case.points) < 1e-9 for case in CASES)
    changed = len(set(before.items()) ^ set(after.items()))
    return [Row("hostile suite: exact grades", exact, len(CASES), 1, 1),
            Row("files outside that changed", changed, 1, 0, 0)]  # fmt: skip


def hashes(*folders: Path) -> dict[str, str]:
    """Of the submissions, the sandbox's library and the grader."""
    files = [p for folder in folders for p in folder.rglob("*") if p.suffix in (".py", ".ipynb")]
    kept = [path for path in files if path.is_file() and not path.is_symlink()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def speed(place: Path, full: bool) -> list[Row]:
    """CPU seconds of a submission of all notebooks (the mean of 8, the command's start included), and of one
    student beside nbgrader on the same notebooks (without --full: the first alone, for both).
    """
    mean = grade(submissions(place / "all", 8, NOTEBOOKS), place / "book", NOTEBOOKS) / 8
    chosen = NOTEBOOKS if full else NOTEBOOKS[:1]
    ours = grade(submissions(place / "same", 1, chosen), place / "book2", chosen)
    theirs = nbgrader(place / "nbgrader", chosen)
    return [
        Row(f"CPU s of {len(NOTEBOOKS)} notebooks, mean of 8", mean, 6.0, 0, 1, "s"),
        Row(f"CPU s of {len(chosen)}, beside nbgrader", ours, theirs, 0, 1, "s"),
    ]


def submissions(place: Path, students: int, notebooks: list[Path]) -> Path:
    for number in range(students):
        folder = place / f"student{number:03}"
        folder.mkdir(parents=True)
        for path in notebooks:
            shutil.copy(path, folder)
    return place


def grade(folder: Path, book: Path, notebooks: list[Path]) -> float:
    """CPU seconds, the command's own start included."""
    return cpu([*COURSE, "grade", str(folder), "--book", str(book), "--notebook", *map(str, notebooks)])


def cpu(command: list[str], where: Path = ROOT) -> float:
    """CPU seconds of a command and of all that descends from it, sandboxes and kernels included.

    Looked up fifty times a second: what bubblewrap's processes used is not handed on to who waits for them.
    """
    used: dict[tuple[int, str], float] = {}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=where, env=ENVIRONMENT, stdout=log, stderr=log)
        while process.poll() is None:
            look(process.pid, used)
            time.sleep(0.02)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read().decode(errors="replace")[-2000:])
    return sum(used.values())


def look(ancestor: int, used: dict[tuple[int, str], float]) -> None:
    """Enter the CPU seconds so far of a process and its descendants, by number and start."""
    known = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                parts = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            ticks = (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
            known[int(place.name)] = (int(parts[1]), parts[19], ticks)
    family = {ancestor}
    for _ in range(8):
        family |= {process for process, (parent, _, _) in known.items() if parent in family}
    used |= {(process, known[process][1]): known[process][2] for process in family & known.keys()}


def nbgrader(place: Path, notebooks: list[Path]) -> float:
    """CPU seconds of ``nbgrader autograde`` for one student (the release made before is not counted)."""
    total = 0.0
    tool = [sys.executable, "-m", "nbgrader"]
    for path in notebooks:
        name = path.stem
        for kind in (f"source/{name}", f"submitted/student/{name}"):
            (place / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place / kind)
        (place / "nbgrader_config.py").write_text(
            f"c = get_config()\nc.CourseDirectory.root = {str(place)!r}\n"
            "c.ExecutePreprocessor.timeout = 600\n"
        )
        cpu([*tool, "generate_assignment", name, "--force"], place)
        cpu([*tool, "db", "student", "add", "student"], place)
        total += cpu([*tool, "autograde", name, "--force"], place)
        assert nbformat.read(place / f"autograded/student/{name}/{path.name}", 4).cells
    return total


def a_class(place: Path, students: int) -> list[Row]:
    """Wall time on two workers (scaled to 200), memory at a class's half and end, and a kill in mid-class."""
    folder = submissions(place / "class", students, NOTEBOOKS)
    command = [*COURSE, "grade", str(folder), "--book", str(place / "book")]
    start = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    half = last = 0
    while process.poll() is None:
        done, used = len(results(place / "book")), resident(process.pid)
        half = used if done <= students // 2 and done else half
        last = used or last
        time.sleep(0.1)
    seconds = (time.monotonic() - start) * 200 / students
    killed = subprocess.Popen([*command[:-1], str(place / "book2")], cwd=ROOT, env=ENVIRONMENT,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while len(results(place / "book2")) < students // 2 and killed.poll() is None:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = results(place / "book2")
    subprocess.run(
        [*command[:-1], str(place / "book2")], cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True
    )
    after = results(place / "book2")
    wrong = (
        len(set(after) ^ set(results(place / "book")))
        + len(after)
        - len(set(after))
        + (after[: len(kept)] != kept)
    )
    return [
        Row("class of 200, two workers", seconds, 900.0, 0, 1, "s"),
        Row("memory at the end against half-way", last, half or last, 0, 1.2, "kB"),
        Row("lost or doubled after kill -9", wrong, 1, 0, 0),
    ]


def results(book: Path) -> list[str]:
    """Students in the order in which their results were written."""
    import sqlite3

    try:
        with sqlite3.connect(f"file:{book / 'gradebook.db'}?mode=ro", uri=True) as database:
            return [row[0] for row in database.execute("select student from course_results order by id")]
    except sqlite3.OperationalError:  # not there yet
        return []


def resident(process: int) -> int:
    """kB of resident memory; 0 where the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


if __name__ == "__main__":
    main()
