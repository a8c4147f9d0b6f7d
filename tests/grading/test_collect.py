"""What learning platforms hand over, and archives that were made to do harm."""

import json
import os
import zipfile
from datetime import datetime
from pathlib import Path

import pytest

from course_lib.grading.collect import collect, student_name
from course_lib.grading.plan import plan
from course_lib.grading.submission import read_submission
from tests.hostile.submissions import SOURCE, Case, solved, write_case

SOLVED = solved()


def archive(path, *entries):
    """(name, content, time) in a zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content, *time in entries:
            file.writestr(zipfile.ZipInfo(name, time[0] if time else (2026, 11, 1, 12, 0, 0)), content)
    return path


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*.ipynb"))


def test_moodle_canvas_and_folders(tmp_path):
    path = archive(
        tmp_path / "a.zip",
        ("Ada Lovelace_123_assignsubmission_file_/01_a.ipynb", "{}"),
        ("bobsmith_LATE_77_88_01_a-1.ipynb", "{}"),
        ("carol/01_a.ipynb", "{}"),
        ("class/readme.txt", "-"),
    )
    names, said = collect(path, tmp_path / "out")
    assert names == ["Ada Lovelace", "bobsmith", "carol"]
    assert files(tmp_path / "out") == ["Ada Lovelace/01_a.ipynb", "bobsmith/01_a.ipynb", "carol/01_a.ipynb"]
    assert said == ["bobsmith: 01_a.ipynb came late (2026-11-01 12:00)"]


def test_the_last_of_several_counts_whatever_the_order(tmp_path):
    late, early = (2026, 11, 3, 0, 0, 0), (2026, 11, 1, 0, 0, 0)
    path = archive(tmp_path / "a.zip", ("s_1_2_x.ipynb", "new", late), ("s_1_1_x-1.ipynb", "old", early))
    _, said = collect(path, tmp_path / "out", datetime(2026, 11, 2))
    assert (tmp_path / "out/s/x.ipynb").read_text() == "new"
    assert said == ["s: x.ipynb came late (2026-11-03 00:00)"]
    collect(archive(tmp_path / "b.zip", ("s_1_1_x.ipynb", "old", early)), tmp_path / "out")
    assert (tmp_path / "out/s/x.ipynb").read_text() == "new"


@pytest.mark.parametrize(
    "name", ["../evil.ipynb", "/evil.ipynb", "a/../../evil.ipynb", "..\\evil.ipynb", "C:\\evil.ipynb"]
)
def test_no_path_leads_out(tmp_path, name):
    _, said = collect(archive(tmp_path / "a.zip", (name, "x")), tmp_path / "deep/out")
    assert not files(tmp_path)
    assert len(said) == 1


def test_a_bomb_is_not_unpacked(tmp_path):
    _, said = collect(archive(tmp_path / "a.zip", ("s/x.ipynb", bytes(70 * 2**20))), tmp_path / "out")
    assert not files(tmp_path / "out")
    assert "more than" in said[0]


def test_links_are_left_out(tmp_path):
    entry = zipfile.ZipInfo("s/x.ipynb")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(entry, "/etc/passwd")
    assert "link" in collect(tmp_path / "a.zip", tmp_path / "out")[1][0]
    (tmp_path / "in/s").mkdir(parents=True)
    (tmp_path / "in/s/x.ipynb").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "in/s/y.ipynb")
    assert len(collect(tmp_path / "in", tmp_path / "out")[1]) == 2
    assert not files(tmp_path / "out")


def test_a_students_own_zip_is_opened_once(tmp_path):
    inner = archive(tmp_path / "in.zip", ("work/01_a.ipynb", "{}"), ("../02_b.ipynb", "{}"), ("z.zip", "x"))
    outer = archive(tmp_path / "out.zip", ("ada/mine.zip", inner.read_bytes()))
    collect(outer, tmp_path / "out")
    assert files(tmp_path / "out") == ["ada/01_a.ipynb"]


def test_what_is_no_zip_is_said(tmp_path):
    (tmp_path / "a.zip").write_text("no")
    with pytest.raises(ValueError, match="no zip archive"):
        collect(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["../../x", "<script>", "=1+1", "a/b", "..", "", "x" * 500, "a\0b", "'; DROP TABLE"]
)
def test_a_students_name_is_harmless(text):
    name = student_name(text)
    assert 1 <= len(name.encode()) <= 100
    assert not set(name) & set("/\\<>;=\0\n")
    assert name not in (".", "..")


def test_namesakes_are_told_apart_by_the_platforms_number(tmp_path):
    path = archive(
        tmp_path / "a.zip",
        ("Wei Zhang_7_assignsubmission_file_/a.ipynb", "one"),
        ("Wei Zhang_8_assignsubmission_file_/a.ipynb", "two"),
        ("Wei/Zhang_9_assignsubmission_file_/a.ipynb", "three"),
    )
    names, said = collect(path, tmp_path / "out")
    assert names == ["Wei Zhang 7", "Wei Zhang 8", "Zhang"]
    assert (tmp_path / "out/Wei Zhang 8/a.ipynb").read_text() == "two"
    assert said == ["2 students are called Wei Zhang: told apart as Wei Zhang 7, Wei Zhang 8"]


def test_names_that_become_the_same_folder_are_told_apart(tmp_path):
    path = archive(tmp_path / "a.zip", ("a=b/x.ipynb", "1"), ("a+b/x.ipynb", "2"))
    names, said = collect(path, tmp_path / "out")
    assert len(names) == len(files(tmp_path / "out")) == 2
    assert "told apart" in said[0]


def test_a_class_zipped_by_hand_and_what_macos_and_jupyter_add(tmp_path):
    path = archive(
        tmp_path / "a.zip",
        ("class/ada/01_a.ipynb", "1"),
        ("class/bob/01_a.ipynb", "2"),
        ("class/bob/.ipynb_checkpoints/01_a-checkpoint.ipynb", "old"),
        ("__MACOSX/class/ada/._01_a.ipynb", "fork"),
    )
    names, said = collect(path, tmp_path / "out")
    assert names == ["ada", "bob"]
    assert files(tmp_path / "out") == ["ada/01_a.ipynb", "bob/01_a.ipynb"]
    assert said == ["class is taken as the class's folder, with one folder a student in it"]


def test_one_students_folders_are_no_class(tmp_path):
    path = archive(tmp_path / "a.zip", ("ada/01_a/01_a.ipynb", "1"), ("ada/02_b/02_b.ipynb", "2"))
    assert collect(path, tmp_path / "out")[0] == ["ada"]


def test_of_two_names_for_one_notebook_the_last_to_come_counts_and_lateness_is_noted(tmp_path):
    first, last = json.dumps(SOLVED), json.dumps(SOLVED | {"cells": SOLVED["cells"][:40]})
    path = archive(
        tmp_path / "a.zip",
        ("ada/01_memory_accounting.ipynb", first, (2026, 11, 1, 0, 0, 0)),
        ("ada/final.ipynb", last, (2026, 11, 3, 0, 0, 0)),
    )
    collect(path, tmp_path / "out", datetime(2026, 11, 2))
    read = read_submission(tmp_path / "out/ada", plan([SOURCE]))
    assert read.notebooks["01_memory_accounting"].file == "final.ipynb"
    assert "final.ipynb: handed in late" in read.notes
    assert not [note for note in read.notes if note.startswith("01_memory_accounting.ipynb: handed in late")]


@pytest.mark.parametrize(
    "name", [b"J\xf6rg", "𝒜".encode() * 60, b"x" * 250, b"line\nbreak", "\u202eevil".encode()]
)
def test_a_folder_with_any_name_is_graded_under_one_that_can_be_kept(tmp_path, name):
    folder = os.fsencode(tmp_path) + b"/" + name
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system has no such names")
    student = read_submission(Path(os.fsdecode(folder)), plan([SOURCE])).student
    assert student.isprintable()
    assert len(student.encode()) <= 120
    assert student == student.encode().decode()


def test_what_a_hand_made_record_of_times_holds_does_no_harm(tmp_path):
    write_case(Case("ada", 0.0), tmp_path / "ada")
    for text in ("[" * 100_000, "[]", "{", '{"01_memory_accounting.ipynb": 3}', '{"a": {"time": "x"}}', "\0"):
        (tmp_path / "ada/.collected.json").write_text(text)
        assert list(read_submission(tmp_path / "ada", plan([SOURCE])).notebooks) == ["01_memory_accounting"]
