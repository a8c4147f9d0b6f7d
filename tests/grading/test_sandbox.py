"""What a student's code may and may not do, and refusing where nothing can hold it."""

import itertools
import os
import shutil
import time

import pytest

from course_lib.grading.judge import judge_submission, result_from_json
from course_lib.grading.plan import plan
from course_lib.grading.sandbox import Limits, NoSandbox, sandbox
from course_lib.grading.seccomp import program as seccomp_program
from course_lib.grading.submission import read_submission
from course_lib.grading.worker_process import Worker, WorkerGone
from tests.grading.needs import SOURCE_ANSWER, a_class, grade, needs_bubblewrap
from tests.hostile.submissions import ONE_LAYER, SOURCE


def test_without_bubblewrap_it_refuses_and_names_the_package(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NoSandbox, match="`bubblewrap`"), sandbox():
        pass
    with pytest.raises(NoSandbox, match="podman"), sandbox(container="python:3.11"):
        pass


def test_a_bubblewrap_that_may_not_work_is_said_at_once(tmp_path, monkeypatch):
    (tmp_path / "bwrap").write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(NoSandbox, match=r"No permissions .* user namespaces"), sandbox():
        pass


@needs_bubblewrap
def test_memory_is_counted_over_all_processes(tmp_path):
    """Each of them stays far below the limit on one process."""
    source = (
        "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n"
        "        kept = bytearray(os.urandom(1 << 20) * 40)\n        time.sleep(60)\ntime.sleep(60)"
    )
    with sandbox(Limits(seconds=20, memory=400 * 2**20)) as box, Worker(box) as worker:
        worker.send({"limits": {}, "seconds": 20.0}, 30)
        assert worker.receive(30) == {"ready": True}
        cells = [{"number": 0, "exercise": True, "source": source}]
        worker.send({"do": "build", "chapter": 1, "cells": cells, "names": ["f"]}, 30)
        assert worker.receive(30) == {"running": 0, "importing": True}
        assert worker.receive(30) == {"running": 0, "importing": False}
        with pytest.raises(WorkerGone, match=r"took .* GB of memory"):
            worker.receive(25)


@needs_bubblewrap
def test_loading_a_library_is_not_billed_to_the_answer():
    """One that takes twice the time of a statement, as PyTorch may on a busy machine."""
    source = (
        "import sys\nsys.path.append('/tmp')\n"
        "_ = open('/tmp/slow.py', 'w').write('import time; time.sleep(1)')\n"
        "import slow\ndef f():\n    return slow.__name__"
    )
    with sandbox(Limits(seconds=0.5)) as box, Worker(box) as worker:
        worker.send({"limits": box.process_limits(), "seconds": 0.5}, 30)
        assert worker.receive(30) == {"ready": True}
        cells = [{"number": 0, "exercise": True, "source": source}]
        worker.send({"do": "build", "chapter": 1, "cells": cells, "names": ["f"]}, 30)
        replies = [worker.receive(30) for _ in range(5)]
        assert [reply.get("importing") for reply in replies] == [True, False, True, False, None]
        assert replies[-1] == {"built": []}


@pytest.fixture
def podman(tmp_path, monkeypatch):
    """A stand-in for the client that writes down how it is called; its log."""
    (tmp_path / "podman").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\ncat > /dev/null\n')
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path / "log"


def test_a_container_gets_the_same_limits(podman):
    with sandbox(Limits(processes=9), container="image") as box:
        command = box.command(3, name="course-1")
        pairs = set(itertools.pairwise(command))
    assert {
        ("--network", "none"),
        ("--cap-drop", "ALL"),
        ("--pids-limit", "9"),
        ("--name", "course-1"),
        ("--shm-size", str(64 * 2**20)),
    } <= pairs
    (user,) = (second for first, second in pairs if first == "--user")
    assert 60_003 <= int(user.partition(":")[0]) < 64_000
    assert "--read-only" in command


def test_a_container_is_ended_with_its_worker(podman):
    """Its client's end does not end it."""
    with sandbox(container="image") as box, Worker(box):
        time.sleep(0.3)
    tried, started, ended = podman.read_text().splitlines()
    assert ended == "kill " + started.split("--name ")[1].split()[0]
    assert tried.split("--name ")[1].split()[0] not in ended


def test_a_container_that_does_not_start_is_said_at_once(podman):
    (podman.parent / "podman").write_text("#!/bin/sh\necho 'image not known' >&2\nexit 125\n")
    with (
        pytest.raises(NoSandbox, match=r"container of image; it says: image not known"),
        sandbox(container="image"),
    ):
        pass


def test_a_sandbox_that_does_not_start_is_no_answers_fault(tmp_path, podman):
    asked = plan([SOURCE])
    submission = read_submission(a_class(tmp_path / "class", ada=SOURCE_ANSWER) / "ada", asked)
    with sandbox(container="image") as box:
        (podman.parent / "podman").write_text("#!/bin/sh\nexit 1\n")
        with pytest.raises(NoSandbox, match="did not start"):
            judge_submission(submission, asked, box, b"seed")


def test_the_filter_refuses_key_rings_and_namespaces_on_both_architectures():
    sizes = {machine: len(seccomp_program(machine)) for machine in ("x86_64", "aarch64", "riscv64")}
    assert sizes["x86_64"] == sizes["aarch64"] > 300
    assert sizes["riscv64"] == 0


def test_trust_has_to_be_typed_in_full(tmp_path, capsys):
    with pytest.raises(SystemExit):
        grade(tmp_path, "--trust-sub")
    assert "unrecognized arguments" in capsys.readouterr().err


def test_the_sandboxs_library_holds_no_references_and_no_grader():
    with sandbox(trust_submissions=True) as box:
        files = {str(path.relative_to(box.library)) for path in box.library.rglob("*.py")}
        text = "".join(path.read_text() for path in (box.library / "course_lib/exercises").glob("*.py"))
    assert not [name for name in files if "chapter" in name or "registry" in name or "judge" in name]
    assert "course_lib/adapters/lora.py" in files
    assert "reference" not in text.replace("references", "").replace("no reference", "")


def test_trusted_submissions_are_graded_by_the_same_judge(tmp_path):
    asked = plan([SOURCE])
    folder = a_class(tmp_path, ada=ONE_LAYER) / "ada"
    with sandbox(trust_submissions=True) as box:
        result = judge_submission(read_submission(folder, asked), asked, box, b"seed")
    assert result.points == pytest.approx(12 + 2 * 3 / 5)
    assert result_from_json(result.as_json()) == result
