"""``python -m course_lib.kernels``: compile every kernel ahead of time, one JSON object a kernel and target.

The exit status is 1 where the compiled code is at fault. Needs Triton, but no GPU.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from course_lib.kernels import OPERATIONS
from course_lib.kernels.compiled import TARGETS, compile_case
from course_lib.kernels.language import triton


def main() -> int:
    """Compile everything for every target; exit status 1 where something is at fault."""
    bad = 0
    print(json.dumps({"triton": triton.__version__, "python": sys.version.split()[0]}))
    for case in (case for operation in OPERATIONS for case in operation.cases()):
        for target in TARGETS:
            made = compile_case(case, target)
            bad += bool(made.faults)
            print(json.dumps(asdict(made)), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
