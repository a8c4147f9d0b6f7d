"""Where a student's code runs: bubblewrap, a container, or (typed in full) nowhere special.

No network, a read-only library without reference answers, a private ``/tmp``, a user of its own, limits on
time, memory, processes, files and output. Other students, the gradebook and the seed are not in sight.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import course_lib
from course_lib.grading.seccomp import open_program

_PACKAGE = Path(course_lib.__file__).resolve().parent
_FIRST_USER, _RUNS = 60_000, 60  # uids that belong to nobody: 64 for each of that many runs at the same time
_WORKER = (sys.executable, "-B", "-m", "course_lib.grading.inside.worker")
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/fonts", "/etc/ld.so.cache", "/etc/alternatives")
_MAPPED = 16 * 2**30  # bytes of addresses for files: PyTorch's build for CUDA maps 3 GB and touches little


class NoSandbox(RuntimeError):
    """There is nothing to run a student's code in safely; the text names what to install."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    seconds: float = 10.0  # of all calls of one exercise, and of one statement of a cell
    total_seconds: float = 180.0  # of a submission, restarts included
    cpu_seconds: int = 120
    memory: int = 3 * 2**30  # bytes of each process's own, and of all together
    processes: int = 64  # threads count
    file_bytes: int = 16 * 2**20  # largest file
    disk_bytes: int = 64 * 2**20  # private /tmp
    open_files: int = 256

    def of_process(self) -> dict[str, int]:
        """As the names of ``setrlimit`` have it."""
        return {"DATA": self.memory, "AS": self.memory + _MAPPED, "CPU": self.cpu_seconds, "CORE": 0,
                "FSIZE": self.file_bytes, "NPROC": self.processes, "NOFILE": self.open_files}  # fmt: skip


@dataclass(frozen=True)
class Sandbox:
    """How to start the worker: ``command(slot)``. ``library`` holds what it may read of the course.

    A limit on processes counts by user, so every slot of every run has a user of its own.
    """

    kind: str  # "bubblewrap", "container", "none"
    library: Path
    limits: Limits
    image: str = ""

    def command(self, slot: int = 0, seccomp: int | None = None, name: str = "") -> list[str]:
        """Command line of a worker; ``slot`` numbers those that run at the same time. ``seccomp`` is a
        descriptor with bubblewrap's filter, ``name`` the container's.
        """
        user = self.user(slot)
        if self.kind == "bubblewrap":
            return [*_bubblewrap(self.library, self.limits, user, seccomp), *_WORKER]
        if self.kind == "container":
            return _container(self.library, self.limits, self.image, user, name)
        return list(_WORKER)

    def user(self, slot: int) -> int:
        """The uid of a slot, where there is one to be had."""
        return _FIRST_USER + os.getpid() % _RUNS * 64 + slot

    def end(self, name: str) -> None:
        """End a container: it outlives the client that started it."""
        if self.kind == "container":
            subprocess.run(
                [_engine() or "podman", "kill", name], capture_output=True, check=False, timeout=60
            )

    def process_limits(self) -> dict[str, int]:
        """Limits that the worker sets itself. Without a user of its own, a limit on processes would count
        the instructor's.
        """
        limits = self.limits.of_process()
        return limits if self.kind != "none" else {k: v for k, v in limits.items() if k != "NPROC"}


@contextmanager
def sandbox(
    limits: Limits | None = None, container: str = "", trust_submissions: bool = False
) -> Iterator[Sandbox]:
    """A sandbox for one grading run: bubblewrap, or the container image of that name.

    Raises NoSandbox, naming the package, where neither is there and the submissions are not trusted.
    """
    kind = "none" if trust_submissions else "container" if container else "bubblewrap"
    if kind == "bubblewrap" and shutil.which("bwrap") is None:
        raise NoSandbox(
            "a student's code is only run in a sandbox, and bubblewrap is not installed. Install the package "
            "`bubblewrap` (Debian, Ubuntu, Fedora, Arch), or name a Docker or Podman image with --container "
            "IMAGE, or, for code that you would run yourself, type --trust-submissions"
        )
    if kind == "container" and _engine() is None:
        raise NoSandbox("--container needs Podman or Docker: install the package `podman`")
    with TemporaryDirectory(prefix="course-library-") as folder:
        library = Path(folder)
        _fill(library)
        box = Sandbox(kind, library, limits or Limits(), container)
        if kind != "none":
            _try_out(box)
        yield box


def _try_out(box: Sandbox) -> None:
    """Start a worker that is told nothing; raises NoSandbox where that fails."""
    seccomp = open_program() if box.kind == "bubblewrap" else None
    try:
        done = subprocess.run(
            box.command(0, seccomp, f"course-{secrets.token_hex(8)}"), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False, timeout=300,
            pass_fds=() if seccomp is None else (seccomp,),
        )  # fmt: skip
    finally:
        if seccomp is not None:
            os.close(seccomp)
    if done.returncode == 0:
        return
    said = (done.stderr.strip().splitlines() or ["nothing"])[-1][:300].rstrip(".")
    if box.kind == "container":
        raise NoSandbox(
            f"no sandbox can be started in a container of {box.image}; it says: {said}. The image needs "
            "Python 3.11 or later as `python3`, with NumPy and PyTorch, and has to be on this machine"
        )
    raise NoSandbox(
        f"bubblewrap is installed, but cannot start a sandbox here; it says: {said}. Often user namespaces "
        "are switched off (sysctl kernel.unprivileged_userns_clone=1, on Ubuntu "
        "kernel.apparmor_restrict_unprivileged_userns=0), or this is itself a container without the right to "
        "make them. Else name a Docker or Podman image with --container IMAGE, or, for code that you would "
        "run yourself, type --trust-submissions"
    )


def _fill(library: Path) -> None:
    """Copy the course's library without the exercises' records and without the grader."""
    hidden = shutil.ignore_patterns("exercises", "grading", "cli.py", "cli.*.pyc")
    shutil.copytree(_PACKAGE, library / "course_lib", ignore=hidden)
    inside = _PACKAGE / "grading/inside"
    (library / "course_lib/exercises").mkdir()
    for name in ("compare.py", "run.py"):
        shutil.copy2(_PACKAGE / "exercises" / name, library / "course_lib/exercises" / name)
    shutil.copy2(inside / "neutral.py", library / "course_lib/exercises/__init__.py")
    target = library / "course_lib/grading/inside"
    target.parent.mkdir()
    shutil.copytree(inside, target)
    (library / "data").mkdir()  # where the course's data are bound
    library.chmod(0o755)


def _bubblewrap(library: Path, limits: Limits, user: int, seccomp: int | None) -> list[str]:
    """All of the command line up to the program that runs inside."""
    root = os.geteuid() == 0
    spaces = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    command = ["bwrap", *spaces, "--die-with-parent", "--new-session", "--clearenv", "--hostname", "course"]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for place in ("/tmp", "/dev/shm"):  # all that can be written, the two mounts around them included
        command += ["--perms", "1777", "--size", str(limits.disk_bytes), "--tmpfs", place]
    command += _binds(library)  # after /tmp: Python itself may lie there
    command += ["--chdir", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]
    command += [] if seccomp is None else ["--seccomp", str(seccomp)]
    for name, value in _environment("/course").items():
        command += ["--setenv", name, value]
    if root:  # a limit on processes bites only on a user that is not root
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            command += ["--cap-add", capability]
        command += ["--", "setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]
        command += ["--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs"]
    else:
        command += ["--unshare-user", "--disable-userns"]
    return [*command, "--"]


def _binds(library: Path) -> list[str]:
    """Read-only views of the system, of Python and of the course's library; every parent named first."""
    command: list[str] = []
    places = [Path(place) for place in _SYSTEM if Path(place).exists()]
    places += [Path(prefix).absolute() for prefix in dict.fromkeys((sys.base_prefix, sys.prefix))]
    for place in places:
        for parent in reversed(place.parents[:-1]):
            command += ["--dir", str(parent)]
        if place.is_symlink():
            command += ["--symlink", os.readlink(place), str(place)]
        else:
            command += ["--ro-bind", str(place), str(place)]
    installed = [place for place in places if _PACKAGE.is_relative_to(place)]
    if installed:  # a copy of the course within Python itself is covered, references and all
        command += ["--tmpfs", str(_PACKAGE)]
    command += ["--ro-bind", str(library), "/course"]
    data = _PACKAGE.parent / "data"
    return [*command, "--ro-bind", str(data), "/course/data"] if data.is_dir() else command


def _environment(course: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    return {
        "PATH": path, "HOME": "/tmp", "PYTHONPATH": course, "MPLBACKEND": "Agg", "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/tmp",
    }  # fmt: skip


def _engine() -> str | None:
    return next((name for name in ("podman", "docker") if shutil.which(name)), None)


def _container(library: Path, limits: Limits, image: str, user: int, name: str) -> list[str]:
    """The same limits, by Podman or Docker; the image needs Python, NumPy and PyTorch."""
    command = [
        _engine() or "podman", "run", "--rm", "--interactive", "--pull", "never",
        "--network", "none", "--read-only",
        "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", f"{user}:{user}",
        "--pids-limit", str(limits.processes), "--memory", str(limits.memory), "--name", name,
        "--memory-swap", str(limits.memory), "--shm-size", str(limits.disk_bytes),
        "--tmpfs", f"/tmp:rw,size={limits.disk_bytes},mode=1777", "--workdir", "/tmp",
        "--volume", f"{library}:/course:ro", "--volume", f"{_PACKAGE.parent / 'data'}:/course/data:ro",
    ]  # fmt: skip
    for name, value in _environment("/course").items():
        command += [] if name == "PATH" else ["--env", f"{name}={value}"]
    return [*command, image, "python3", "-B", "-m", "course_lib.grading.inside.worker"]
