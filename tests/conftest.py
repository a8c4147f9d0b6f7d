"""What a run says at its end."""

import sys


def pytest_terminal_summary(terminalreporter):
    """Where hostile submissions were skipped for want of a sandbox, nobody shall miss it."""
    needs = sys.modules.get("tests.grading.needs")
    if needs is not None and needs.NO_SANDBOX:
        terminalreporter.section("THE GRADER WAS NOT TESTED", sep="!", red=True, bold=True)
        terminalreporter.write_line(f"Hostile submissions were skipped: {needs.NO_SANDBOX}", red=True)
