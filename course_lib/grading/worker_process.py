"""The grader's end of the pipe to a worker: every read and write has a deadline and a size."""

from __future__ import annotations

import os
import secrets
import select
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from course_lib.grading.inside.messages import LARGEST, REPLY_HEAD, BadMessage, decode, encode
from course_lib.grading.sandbox import Sandbox
from course_lib.grading.seccomp import open_program

_LOOK = 0.25  # seconds between two looks at the memory in use


class WorkerGone(RuntimeError):
    """The worker ended, fell silent or sent what is no message; the text completes "the process …"."""


class Worker:
    """One sandboxed process. Use as a context manager: on leaving, the sandbox and all in it end."""

    def __init__(self, box: Sandbox, slot: int = 0) -> None:
        environment = {"PATH": os.environ.get("PATH", "/usr/bin")}
        if box.kind == "container":  # its client looks up the home folder and the server's address
            environment = dict(os.environ)
        if box.kind == "none":
            environment |= {"PYTHONPATH": str(box.library), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        self._box, self._name = box, f"course-{secrets.token_hex(8)}"
        seccomp = open_program() if box.kind == "bubblewrap" else None
        try:
            self._process = subprocess.Popen(
                box.command(slot, seccomp, self._name), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, cwd=box.library, env=environment, start_new_session=True,
                bufsize=0, pass_fds=() if seccomp is None else (seccomp,),
            )  # fmt: skip
        finally:
            if seccomp is not None:
                os.close(seccomp)
        self._looked = time.monotonic()
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        self._box.end(self._name)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def send(self, message: Any, seconds: float) -> None:
        """Write one message; WorkerGone where it is not taken in time."""
        frame, deadline = memoryview(encode(message)), time.monotonic() + seconds
        while frame:
            _, ready, _ = select.select([], [self._to], [], self._while_waiting(deadline))
            if not ready and time.monotonic() < deadline:
                continue
            if not ready:
                raise WorkerGone(f"did not listen for {seconds:.0f} seconds")
            try:
                frame = frame[os.write(self._to, frame) :]
            except (BrokenPipeError, BlockingIOError) as error:
                if isinstance(error, BrokenPipeError):
                    raise WorkerGone("ended") from None

    def receive(self, seconds: float) -> Any:
        """Read one message; WorkerGone where none comes in time, or what comes is none."""
        deadline = time.monotonic() + seconds
        (size,) = struct.unpack(">I", self._read(4, deadline, seconds))
        if size > LARGEST:
            raise WorkerGone(f"sent {size / 1e6:.0f} MB, {LARGEST / 1e6:.0f} MB are allowed")
        try:
            return decode(self._read(size, deadline, seconds), REPLY_HEAD)
        except BadMessage as error:
            raise WorkerGone(f"sent what is no message ({error})") from None

    def _read(self, size: int, deadline: float, seconds: float) -> bytes:
        parts: list[bytes] = []
        while size:
            ready, _, _ = select.select([self._from], [], [], self._while_waiting(deadline))
            if not ready and time.monotonic() < deadline:
                continue
            if not ready:
                raise WorkerGone(f"did not answer within {seconds:.0f} seconds")
            part = os.read(self._from, min(size, 1 << 20))
            if not part:
                raise WorkerGone("ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _while_waiting(self, deadline: float) -> float:
        """Seconds to wait before the next look; WorkerGone where all processes together take too much memory.

        The kernel's limit is for each process alone, and a submission may start some dozens.
        """
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            used = memory_of(self._process.pid)
            if used > self._box.limits.memory:
                raise WorkerGone(f"and those it started took {used / 1e9:.1f} GB of memory")
        return max(0.0, min(deadline - now, _LOOK))


def memory_of(ancestor: int) -> int:
    """Bytes of anonymous memory of a process and all that descend from it; 0 where /proc does not tell."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError, ValueError, IndexError):  # it may just have ended
                parent = int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(process.name))
    family, total = [ancestor], 0
    for process_id in family:  # grows while it is read
        family += children.get(process_id, [])
        total += _anonymous(process_id)
    return total


def _anonymous(process_id: int) -> int:
    try:
        status = Path(f"/proc/{process_id}/status").read_text(errors="replace")
    except OSError:
        return 0
    kept = [line.split() for line in status.splitlines() if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(int(parts[1]) * 1024 for parts in kept)
