"""Whether a sandbox can be started here, tried out once; and a class to grade in it."""

from pathlib import Path

import pytest

from course_lib.cli import main
from course_lib.grading.sandbox import NoSandbox, sandbox
from tests.hostile.submissions import ONE_LAYER, SOURCE, Case, write_case

ROOT = Path(__file__).parents[2]
SOURCE_ANSWER = ONE_LAYER.replace("2 * batch", "2 * layers * batch")


def why_not() -> str:
    """Why there is no sandbox; "" where there is one."""
    try:
        with sandbox():
            return ""
    except NoSandbox as error:
        return str(error)


NO_SANDBOX = why_not()
needs_bubblewrap = pytest.mark.skipif(bool(NO_SANDBOX), reason=f"the grader's sandbox: {NO_SANDBOX[:160]}")


def a_class(folder, **answers):
    """One folder a student, each with an answer to 1.1."""
    for name, answer in answers.items():
        write_case(Case(name, 0.0, answer), folder / name)
    return folder


def grade(folder, *more):
    return main(["grade", str(folder), "--notebook", str(SOURCE), *more])
