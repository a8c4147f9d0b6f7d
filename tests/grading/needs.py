"""Whether a sandbox can be started here, tried out once."""

import pytest

from course_lib.grading.sandbox import NoSandbox, sandbox


def why_not() -> str:
    """Why there is no sandbox; "" where there is one."""
    try:
        with sandbox():
            return ""
    except NoSandbox as error:
        return str(error)


NO_SANDBOX = why_not()
needs_bubblewrap = pytest.mark.skipif(bool(NO_SANDBOX), reason=f"the grader's sandbox: {NO_SANDBOX[:160]}")
