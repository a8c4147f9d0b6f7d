"""Every *unsolved* student notebook runs to its end, in the memory that Binder gives."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from course_lib.grading import release

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
# Bytes of a process's own: files that it maps do not count (with PyTorch's build for CUDA they are 3 GB).
LIMIT = 2_000_000_000
RUN = """
import resource, sys
limit = int(sys.argv[2])
import nbformat
from nbclient import NotebookClient

def small(): resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

book = nbformat.read(sys.argv[1], 4)
where = {"metadata": {"path": sys.argv[3]}}
client = NotebookClient(book, timeout=300, kernel_name="python3", resources=where)
client.execute(preexec_fn=small)
nbformat.write(book, sys.argv[1])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits on a process's memory are Linux's")
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_runs_to_its_end_in_two_gigabytes(path, tmp_path):
    (student,) = release([path], tmp_path)
    environment = dict(os.environ, OMP_NUM_THREADS="2", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", RUN, str(student), str(LIMIT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) < LIMIT
    cells = [cell for cell in nbformat.read(student, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    verdicts = [str(cell.outputs) for cell in cells if cell.source.startswith("check(")]
    assert verdicts
    assert all("not attempted" in verdict for verdict in verdicts)
    said = str([cell.outputs for cell in cells])
    if any("load_pretrained(" in cell.source for cell in cells):
        assert "taking base_model" in said or "base_model:" in said, (
            "it did not say that it took the small model"
        )
