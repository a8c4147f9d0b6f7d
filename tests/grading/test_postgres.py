"""The gradebook on a PostgreSQL server, with two graders at work on one class."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from course_lib.grading.book import Book
from tests.grading.needs import ROOT, SOURCE_ANSWER, a_class, needs_bubblewrap
from tests.hostile.submissions import ONE_LAYER, SOURCE

pytest.importorskip("psycopg")
_PLACES = [p for pattern in ("postgresql/*/bin", "pgsql*/bin") for p in Path("/usr/lib").glob(pattern)]
_PATH = os.pathsep.join([os.environ.get("PATH", ""), *map(str, _PLACES)])
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("initdb", path=_PATH) is None, reason="needs a PostgreSQL server"),
    needs_bubblewrap,
]
NOBODY = 65534


def as_nobody(*command, **more):
    """Run one of the server's programs: it refuses to be root."""
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    program = shutil.which(command[0], path=_PATH)
    subprocess.run([program, *command[1:]], check=True, capture_output=True, timeout=60, **user, **more)


@pytest.fixture
def server():
    """A server of our own, on a socket in a folder: its address."""
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        data, log = f"{folder}/data", f"{folder}/log"
        as_nobody("initdb", "-D", data, "-A", "trust", "-U", "grader", cwd=folder)
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        as_nobody("pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start", cwd=folder)
        try:
            yield f"postgresql://grader@/postgres?host={folder}"
        finally:
            as_nobody("pg_ctl", "-D", data, "-m", "immediate", "stop", cwd=folder)


def test_two_graders_at_once_write_everyone_once(server, tmp_path):
    answers = {f"s{i:02}": SOURCE_ANSWER if i % 2 else ONE_LAYER for i in range(5)}
    folder = a_class(tmp_path / "class", **answers)
    command = [sys.executable, "-m", "course_lib.cli", "grade", str(folder), "--book", str(tmp_path / "book"),
               "--database", server, "--notebook", str(SOURCE), "--workers", "1"]  # fmt: skip
    graders = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [grader.wait(timeout=120) for grader in graders] == [0, 0]
    with Book(tmp_path / "book", server) as book:
        from sqlalchemy import text

        rows = book.gradebook.db.execute(text("select student from course_results")).scalars().all()
        scores = {s.student.id: s.score for s in book.gradebook.assignment_submissions(SOURCE.stem)}
    assert Counter(rows) == dict.fromkeys(answers, 1)
    assert scores == {name: pytest.approx(14.0 if int(name[1:]) % 2 else 13.2) for name in answers}


def test_a_server_that_is_not_there_is_said_without_the_password(tmp_path):
    with pytest.raises(RuntimeError, match="cannot be opened") as told:
        Book(tmp_path, f"postgresql://grader:secret@/course?host={tmp_path}")
    assert "secret" not in str(told.value)
