# ruff: noqa: E501  (attacks are short programs, each kept in one place)
"""Hostile and clumsy submissions, each with the grade it deserves. Chapter 1, 14 points for its exercises.

Exercise 1.1 is answered in the way that a case is about; 1.2 to 1.7 are answered correctly where the case says
nothing else, so that a case also shows what an attack does to the rest of its own submission.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

SOURCE = Path(__file__).parents[2] / "notebooks/01_memory_accounting.ipynb"
HEAD = "def cache_bytes(layers, batch, length, heads, kv_heads, head_dim, width):\n"
RIGHT = HEAD + "    return 2 * layers * batch * length * kv_heads * head_dim * width\n"
ONE_LAYER = HEAD + "    return 2 * batch * length * kv_heads * head_dim * width\n"  # holds 3 of 5 properties
REST = 12.0  # points of 1.2 to 1.7


@dataclass(frozen=True)
class Case:
    """A submission: ``answer`` replaces the cell of 1.1, then ``edit`` changes the notebook, then ``write`` (or
    plain JSON) puts it into the folder.
    """

    name: str
    points: float
    answer: str = RIGHT
    edit: Callable[[dict[str, Any]], None] = field(default=lambda notebook: None)
    write: Callable[[dict[str, Any], Path], None] | None = None
    said: str = ""  # stands in the notes or in the problem of 1.1


def solved() -> dict[str, Any]:
    """The source notebook as plain JSON, without outputs: its solutions are all correct."""
    notebook = nbformat.read(SOURCE, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return json.loads(nbformat.writes(notebook))


def find(notebook: dict[str, Any], grade_id: str) -> dict[str, Any]:
    return next(c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == grade_id)


def code(source: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
        "id": "x",
    }


def write_case(case: Case, folder: Path) -> None:
    notebook = copy.deepcopy(_SOLVED)
    find(notebook, "ex-1-1")["source"] = case.answer
    case.edit(notebook)
    folder.mkdir(parents=True)
    if case.write:
        case.write(notebook, folder)
    else:
        (folder / SOURCE.name).write_text(json.dumps(notebook))


_SOLVED = solved()


def _before(source: str) -> Callable[[dict[str, Any]], None]:
    """A cell of the student's own, before all others."""
    return lambda notebook: notebook["cells"].insert(0, code(source))


def _in_answer(source: str) -> str:
    """Wrong code above a wrong answer, at the top of the exercise's cell."""
    return source + "\n" + HEAD + "    return 0\n"


def _inside(source: str) -> str:
    """Code that runs when the answer is called."""
    return HEAD + "".join(f"    {line}\n" for line in source.splitlines())


FORGERIES = [
    Case("overloaded_comparison", REST, _inside(
        "class Same(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\nreturn Same(0)"),
        said="cannot be checked"),
    Case("overloaded_float", REST, _inside(
        "class F(float):\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0.0\nreturn F(1)")),
    Case("array_subclass", REST, _inside(
        "import numpy as np\nclass A(np.ndarray):\n    def __eq__(self, o): return True\n"
        "return np.zeros(1).view(A)")),
    Case("patched_isclose", REST, _in_answer(
        "import math, numpy as np\nmath.isclose = lambda *a, **k: True\nnp.isclose = lambda *a, **k: True\n"
        "np.allclose = np.isclose\nnp.testing.assert_allclose = lambda *a, **k: None")),
    Case("patched_builtins", REST - 2, _in_answer(
        "import builtins\nbuiltins.all = lambda *a: True\nbuiltins.sum = lambda *a: 14")),
    Case("patched_judge", REST, _in_answer(
        "import course_lib.exercises.compare as c, course_lib.exercises.run as r\n"
        "c.difference = lambda *a, **k: None\nc.plain = lambda v: v")),
    Case("patched_check", REST, _in_answer("check = lambda *a: 'correct'")),
    Case("reference_is_not_there", REST, _inside(
        "from course_lib.exercises import exercise\n"
        "return exercise('1.1').reference(layers, batch, length, heads, kv_heads, head_dim, width)"),
        said="ImportError"),
    Case("reference_file_is_not_there", REST, _inside(
        "import course_lib.exercises.chapter1 as c\n"
        "return c._cache_bytes(layers, batch, length, heads, kv_heads, head_dim, width)"),
        said="ModuleNotFoundError"),
    Case("answer_sought_on_disk", REST, _inside(
        "import fnmatch, os, sys\nfor top in ('/course', '/home', '/tmp', '/mnt', '/srv', '/opt'):\n"
        "    for here, folders, files in os.walk(top):\n"
        "        python = (sys.prefix, sys.base_prefix)\n"
        "        folders[:] = [name for name in folders if os.path.join(here, name) not in python]\n"
        "        for name in ('chapter1*', '01_memory*', 'seed', 'gradebook*', '*judge*'):\n"
        "            if fnmatch.filter(folders + files, name): return 10**9\nreturn 0"),
        said="it returned 0"),
    Case("frames_of_the_worker", REST, _inside(
        "import sys\nframe = sys._getframe()\nwhile frame.f_back:\n    frame = frame.f_back\n"
        "    frame.f_locals.get('request', {})['names'] = ['forged'] if 'request' in frame.f_locals else []\n"
        "return 0")),
    Case("garbage_collector", REST, _inside(
        "import gc\nfor thing in gc.get_objects():\n    if type(thing).__name__ in ('Exercise', 'Verdict'):\n"
        "        return thing.reference(layers, batch, length, heads, kv_heads, head_dim, width)\nreturn 0")),
    Case("forged_replies", 0.0, _inside(
        "import os, struct\nfrom course_lib.grading.inside.messages import encode\nfor fd in range(3, 20):\n"
        "    try:\n        for _ in range(9): os.write(fd, encode({'value': True, 'points': 99, 'correct': True}))\n"
        "    except OSError: pass\nreturn 0")),
    Case("patched_protocol", 0.0, _in_answer(
        "import sys\nworker = sys.modules['__main__']\n"
        "worker._plain_reply = lambda outcome: {'value': 0, 'status': 'correct', 'points': 2}")),
    Case("garbage_on_every_descriptor", REST, _in_answer(
        "import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'\\xff' * 64)\n    except OSError: pass"),
        said="left out"),
    Case("one_gigabyte_announced", REST, _inside(
        "import os\nfor fd in range(3, 9):\n    try: os.write(fd, b'\\x7f\\xff\\xff\\xff' + b'x' * 100)\n"
        "    except OSError: pass\nreturn 0"), said="MB are allowed"),
    Case("constant_for_luck", REST, HEAD + "    return 2\n"),
    Case("guessed_seed", REST, _inside(
        "import numpy as np\nrng = np.random.default_rng(2024)\n"
        "known = {(1, 1, 1, 1, 1, 1, 1): 2, (1, 1, 1, 1, 1, 3, 2): 12}\n"
        "return known.get((layers, batch, length, heads, kv_heads, head_dim, width), int(rng.integers(9)))")),
    Case("public_inputs_in_a_table", REST, _inside(
        "known = {(1, 1, 1, 1, 1, 1, 1): 2, (1, 1, 1, 1, 1, 3, 2): 12, (2, 3, 5, 1, 1, 1, 1): 60,\n"
        "         (1, 1, 1, 8, 2, 4, 2): 32}\n"
        "return known.get((layers, batch, length, heads, kv_heads, head_dim, width), layers + batch)")),
    Case("class_that_says_it_is_a_tensor", REST, _inside(
        "class Tensor(list):\n    __module__ = 'torch'\n    def detach(self): return self\n"
        "    cpu = numpy = detach\n    def __eq__(self, other): return True\nreturn Tensor()")),
    Case("scalar_with_an_item_of_its_own", REST, _inside(
        "import numpy as np\nclass float64(np.float64):\n    __module__ = 'numpy'\n"
        "    def item(self): return 'right'\nreturn float64(3)"), said="it returned 3"),
    Case("array_of_objects", REST, _inside("import numpy as np\nreturn np.array([object()])"), said="cannot be checked"),
    Case("complex_number", REST, _inside("return 1j"), said="cannot be checked"),
    Case("requests_stolen", REST, _inside(
        "import os\nfor fd in range(3, 20):\n    try: os.read(fd, 10**6)\n    except OSError: pass\nreturn 0")),
    Case("markup_in_the_protocol", REST, _in_answer(
        "import sys\nsys.modules['__main__']._text = lambda error: '\\ud800\\0<script>alert(1)</script>' * 9999\n"
        "raise ValueError"), said="a statement raised"),
    Case("cells_that_are_not_there", REST, _in_answer(
        "import sys\nworker = sys.modules['__main__']\nold = worker._write\n"
        "def write(fd, message):\n    if 'built' in message: message = {'built': [[i, 'x' * 999] for i in range(500, 800)]}\n"
        "    old(fd, message)\nworker._write = write")),
    Case("millions_of_lists", REST, _inside(
        "import os\nhead = b'[' + b'[],' * 4_000_000 + b'[]]'\n"
        "body = len(head).to_bytes(4, 'big') + head\nfor fd in range(3, 9):\n"
        "    try: os.write(fd, len(body).to_bytes(4, 'big') + body)\n    except OSError: pass\nreturn 0"),
        said="no message"),
    Case("skip_tag", REST, HEAD + "    return 0\n",
         lambda n: find(n, "check-1-1")["metadata"].update(tags=["skip-execution"])),
    Case("edited_check", REST, HEAD + "    return 0\n",
         lambda n: find(n, "check-1-1").update(source="print('correct'); 2.0")),
    Case("points_in_metadata", REST, HEAD + "    return 0\n",
         lambda n: find(n, "check-1-1")["metadata"]["nbgrader"].update(points=99)),
    Case("forged_output", REST, HEAD + "    return 0\n",
         lambda n: find(n, "check-1-1").update(outputs=[{"output_type": "execute_result", "metadata": {},
             "execution_count": 1, "data": {"text/plain": "2.0"}}])),
]  # fmt: skip

ATTACKS = [
    Case("exit", REST, _in_answer("import sys\nsys.exit(0)")),
    Case("hard_exit", REST, "import os\nos._exit(0)\n" + RIGHT, said="left out"),
    Case("hard_exit_when_called", REST, _inside("import os\nos._exit(0)"), said="stopped"),
    Case("kill_minus_nine", REST, _inside("import os\nos.kill(os.getpid(), 9)"), said="stopped"),
    Case("endless_loop", REST, _inside("while True: pass"), said="loop"),
    Case("endless_loop_that_ignores_signals", REST, _inside(
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"), said="stopped"),
    Case("sleep", REST, _inside("import time\ntime.sleep(3600)"), said="loop"),
    Case("memory", REST, _inside("return len(bytearray(64 * 2**30))"), said="MemoryError"),
    Case("huge_array", REST, _inside("import numpy as np\nreturn np.zeros(9_000_000)")),
    Case("huge_integer", REST, _inside("return 10 ** 100_000")),
    Case("long_list", REST, _inside("return [0] * 300_000"), said="too many parts"),
    Case("stops_itself", REST, _inside("import os\nos.kill(os.getpid(), 19)"), said="stopped"),
    Case("segmentation_fault", REST, _inside("import ctypes\nreturn ctypes.string_at(0)"), said="stopped"),
    Case("asks_for_a_key", 14.0, "print(input('solution? '))\n" + RIGHT, said="EOFError"),
    Case("notes_for_the_next", 14.0, "import ctypes, platform\n"
         "number = 248 if platform.machine() == 'x86_64' else 217\n"
         "kept = ctypes.CDLL(None).syscall(number, b'user', b'note', b'1.1: 42', 7, -4) != -1\n" + HEAD +
         "    if kept: return 0\n    return 2 * layers * batch * length * kv_heads * head_dim * width\n"),
    Case("namespaces_of_its_own", 14.0, "import ctypes\nmade = ctypes.CDLL(None).unshare(0x10000000) == 0\n" + HEAD +
         "    if made: return 0\n    return 2 * layers * batch * length * kv_heads * head_dim * width\n"),
    Case("shared_memory_filled", 14.0, "kept = 0\ntry:\n    for kept in range(40):\n"
         "        open(f'/dev/shm/{kept}', 'wb').write(bytes(10**7))\nexcept OSError:\n    pass\n" + HEAD +
         "    if kept > 7: return 0\n    return 2 * layers * batch * length * kv_heads * head_dim * width\n"),
    Case("deep_list", REST, _inside("value = []\nfor _ in range(100_000): value = [value]\nreturn value")),
    Case("fork_bomb", 14.0, "import os\ntry:\n    while True:\n        if os.fork() == 0:\n            while True: os.pause() "
         "if hasattr(os, 'pause') else __import__('time').sleep(60)\nexcept OSError:\n    pass\n" + RIGHT),
    Case("child_that_stays", 14.0, "import subprocess\nsubprocess.Popen(['sleep', '31536000'], "
         "start_new_session=True)\n" + RIGHT),
    Case("thread_that_stays", 14.0, "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n"
         + RIGHT),
    Case("writes_everywhere", 14.0, "import os\nfor place in ('/', '/course', '/usr', '/etc', os.path.expanduser('~'), "
         "'/home', '/var'):\n    try: open(place + '/forged', 'w').write('x')\n    except OSError: pass\n" + RIGHT),
    Case("fills_the_disk", 14.0, "try:\n    for i in range(99):\n        open(f'/tmp/{i}', 'wb').write(bytes(10**7))\n"
         "except OSError: pass\nimport os\nfor i in range(99):\n    if os.path.exists(f'/tmp/{i}'): os.remove(f'/tmp/{i}')\n"
         + RIGHT),
    Case("network", 14.0, "import socket\ntry:\n    socket.create_connection(('10.0.0.1', 80), 1)\n    reached = True\n"
         "except OSError:\n    reached = False\n" + HEAD +
         "    if reached: return 0\n    return 2 * layers * batch * length * kv_heads * head_dim * width\n"),
    Case("sees_nobody", 14.0, "import os, sys\n"
         "others = [p for p in os.listdir('/proc') if p.isdigit() and int(p) > 40]\n"
         "others += [p for p in os.listdir('/tmp') if not sys.prefix.startswith(f'/tmp/{p}/')]  # Python may be there\n"
         "seen = bool(others) or os.getuid() == 0\n" + HEAD +
         "    if seen: return 0\n    return 2 * layers * batch * length * kv_heads * head_dim * width\n"),
    Case("ptrace", 14.0, "import ctypes\nattached = ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0\n" + HEAD +
         "    if attached: return 0\n    return 2 * layers * batch * length * kv_heads * head_dim * width\n"),
    Case("megabytes_of_output", 14.0, "print('x' * 10_000_000)\n" + RIGHT),
    Case("formula_and_markup_in_an_error", REST, _inside(
        "raise ValueError('=cmd|\\' /C calc\\'!A0 <script>alert(1)</script> \\'); DROP TABLE grade; --')"),
        said="DROP TABLE"),
    Case("error_that_cannot_speak", REST, _inside(
        "class Mute(Exception):\n    def __str__(self): raise SystemExit\nraise Mute")),
    Case("not_a_number", REST, _inside("return float('nan')"), said="NaN"),
    Case("wrong_type", REST, _inside("return 'many'"), said="a number is asked for"),
]  # fmt: skip


def _raw(content: bytes) -> Callable[[dict[str, Any], Path], None]:
    return lambda notebook, folder: (folder / SOURCE.name).write_bytes(content) and None


def _link(notebook: dict[str, Any], folder: Path) -> None:
    (folder / SOURCE.name).symlink_to(SOURCE)  # the instructor's own solved notebook


def _pipe(notebook: dict[str, Any], folder: Path) -> None:
    os.mkfifo(folder / SOURCE.name)


def _renamed(notebook: dict[str, Any], folder: Path) -> None:
    (folder / "résumé ü (1).ipynb").write_text(json.dumps(notebook))


def _padded(notebook: dict[str, Any], folder: Path) -> None:
    notebook["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 50_000_000}]
    (folder / SOURCE.name).write_text(json.dumps(notebook))


def _drop(*names: str) -> Callable[[dict[str, Any]], None]:
    return lambda n: n.update(
        cells=[c for c in n["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") not in names]
    )


def _twice(notebook: dict[str, Any]) -> None:
    stub = copy.deepcopy(find(notebook, "ex-1-1"))
    stub["source"] = HEAD + "    # YOUR CODE HERE\n    raise NotImplementedError()\n"
    notebook["cells"] += [stub, copy.deepcopy(find(notebook, "check-1-1"))]


CLUMSY = [
    Case("empty_file", 0.0, write=_raw(b""), said="empty"),
    Case("not_json", 0.0, write=_raw(b"<html>Log in</html>"), said="cannot be read"),
    Case("cut_off", 0.0, write=_raw(json.dumps(_SOLVED).encode()[:5000]), said="cannot be read"),
    Case("deep_json", 0.0, write=_raw(b'{"cells":' + b"[" * 100_000), said="cannot be read"),
    Case("cells_is_a_number", 0.0, write=_raw(b'{"cells": 3}'), said="cannot be read"),
    Case("link_to_the_solutions", 0.0, write=_link, said="not a file that can be read"),
    Case("named_pipe", 0.0, write=_pipe, said="not a regular file"),
    Case("nothing_handed_in", 0.0, write=lambda n, f: None, said="no notebook"),
    Case("fifty_megabytes", 14.0, write=_padded),
    Case("renamed", 14.0, write=_renamed, said="read as 01_memory_accounting"),
    Case("missing_cell", REST, edit=_drop("ex-1-1"), said="cells missing: ex-1-1"),
    Case("check_cells_missing", 14.0, edit=_drop(*(f"check-1-{i}" for i in range(1, 8))), said="missing"),
    Case("stub_pasted_again", 14.0, edit=_twice, said="there twice"),
    Case("reordered", 14.0, edit=lambda n: n["cells"].reverse(), said="another order"),
    Case("retyped", 14.0, edit=lambda n: find(n, "ex-1-1").update(cell_type="markdown"), said="another type"),
    Case("metadata_lost", 14.0, edit=lambda n: [c.update(metadata={}) for c in n["cells"]] and None),
    Case("other_version", 14.0, edit=lambda n: find(n, "ex-1-8")["metadata"]["nbgrader"].update(grade_id="ex-1-99"),
         said="another version"),
    Case("wrong_kernel", 14.0, edit=lambda n: n["metadata"].update(kernelspec={"language": "R", "name": "ir"}),
         said="kernel is not Python"),
    Case("syntax_error", REST, HEAD + "    return 2 * (layers\n", said="cannot be read as Python"),
    Case("unsolved", REST, HEAD + "    # YOUR CODE HERE\n    raise NotImplementedError()\n"),
    Case("in_part", REST + 2 * 3 / 5, ONE_LAYER),
]  # fmt: skip

FAIR = [
    Case("as_it_should_be", 14.0),
    Case("warnings_and_prints", 14.0, _inside(
        "import sys, warnings\nwarnings.warn('careful')\nprint('layers', layers)\nprint('!', file=sys.stderr)\n"
        "return 2 * layers * batch * length * kv_heads * head_dim * width")),
    Case("helper_in_another_cell", 14.0, HEAD + "    return TWICE * both(layers, batch) * length * kv_heads * head_dim * width\n",
         _before("import math\nTWICE = 2\ndef both(a, b):\n    return math.prod([a, b])")),
    Case("another_method", 14.0, HEAD + "    import numpy as np\n"
         "    return np.prod(np.array([2, layers, batch, length, kv_heads, head_dim, width], dtype=object))\n"),
    Case("with_torch", 14.0, HEAD + "    sizes = [2, layers, batch, length, kv_heads, head_dim, width]\n"
         "    return torch.tensor(sizes, dtype=torch.float64).prod()\n", _before("import torch")),
    Case("as_a_float", 14.0, HEAD + "    return 2.0 * layers * batch * length * kv_heads * head_dim * width\n"),
    Case("numpy_scalar", 14.0, HEAD + "    import numpy as np\n"
         "    return np.float64(2 * layers * batch * length * kv_heads * head_dim * width)\n"),
    Case("magic_and_progress_bar", 14.0, "%matplotlib inline\nfrom tqdm import tqdm\n!ls\n" + HEAD +
         "    return sum(2 * batch * length * kv_heads * head_dim * width for _ in tqdm(range(layers)))\n"),
    Case("remainder_on_a_line_of_its_own", 14.0, "%matplotlib inline\n" + HEAD +
         "    return (2 * layers * batch * length * kv_heads * head_dim * width\n            % 10**40)\n"),
    Case("question_marks", 14.0, "cache_bytes?\nfiles = !ls\n" + RIGHT),
    Case("name_used_again_below", 14.0, edit=lambda n: n["cells"].append(code("cache_bytes = cache_bytes(1, 1, 1, 1, 1, 1, 1)"))),
    Case("second_thoughts_above_the_check", 14.0, HEAD + "    return 0\n", lambda n: n["cells"].insert(
        n["cells"].index(find(n, "check-1-1")), code(RIGHT))),
    Case("wrong_second_thoughts_above_the_check", REST, RIGHT, lambda n: n["cells"].insert(
        n["cells"].index(find(n, "check-1-1")), code(HEAD + "    return 0\n"))),
    Case("answered_twice", 14.0, HEAD + "    return 0\n", lambda n: n["cells"].append(
        find(n, "ex-1-1") | {"source": RIGHT}), said="there twice"),
    Case("failing_cell_before_it", 14.0, "1 / 0\n" + RIGHT),
    Case("zoë ☃ 李小龍", 14.0),
    Case("=HYPERLINK(1)", 14.0),
    Case("<b>bold", 14.0),
    Case("x'; DROP TABLE grade; --", 14.0),
    Case("-rf", 14.0),
    Case("broken_cell_elsewhere", 14.0, edit=_before("this is no python")),
    Case("renamed_function", 14.0, RIGHT.replace("cache_bytes", "my_bytes"),
         lambda n: find(n, "check-1-1").update(source='check("1.1", my_bytes)')),
]  # fmt: skip

CASES = [*FORGERIES, *ATTACKS, *CLUMSY, *FAIR]
