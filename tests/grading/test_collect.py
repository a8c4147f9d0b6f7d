"""What learning platforms hand over, and archives that were made to do harm."""

import os
import zipfile
from datetime import datetime
from pathlib import Path

import pytest

from course_lib.grading.collect import collect, student_name


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
