"""Where the files that ship with the course lie, and how a file is written so that it is whole or not
there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def data_path(*parts: str) -> Path:
    """Path of a file under ``data/``; raises FileNotFoundError, saying what to do, where it is missing."""
    path = Path(__file__).resolve().parent.parent.joinpath("data", *parts)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing. The course runs from its own checkout (installed with `pip install -e .`); "
            "restore the file with `git checkout -- data` there."
        )
    return path


def _umask() -> int:
    """What new files do not allow; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _umask()


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], private: bool = False) -> None:
    """Call ``write(file)`` on a temporary file beside ``path``, flush it, and rename it into place.

    Others may read it as the user's umask says; if it is ``private``, nobody else may.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if not private and hasattr(os, "fchmod"):  # mkstemp's files are for their owner alone
                os.fchmod(descriptor, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text_atomically(path: Path, text: str, private: bool = False) -> None:
    """Write a text file so that a reader, or a kill, sees the old one or the new one and nothing between."""
    write_atomically(path, lambda file: file.write(text.encode()), private)
