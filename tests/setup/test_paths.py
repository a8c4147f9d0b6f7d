"""Files that are there as a whole or not at all."""

import os
import stat

import pytest

from course_lib.paths import write_atomically, write_text_atomically


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file"
    write_text_atomically(path, "old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX files")
def test_others_may_read_what_is_not_private(tmp_path):
    """As of any file that the user makes; a temporary one would be for its owner alone."""
    plain = tmp_path / "plain"
    plain.write_text("")
    for private in (False, True):
        write_text_atomically(tmp_path / "file", "text", private)
        mode = stat.S_IMODE((tmp_path / "file").stat().st_mode)
        assert mode == (0o600 if private else stat.S_IMODE(plain.stat().st_mode))
