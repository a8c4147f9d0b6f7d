"""What a person may want to look at: reported, never judged."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from course_lib.grading.inside.program import statements
from course_lib.grading.plan import Asked
from course_lib.grading.submission import Submission

_WORD = re.compile(r"[A-Za-z_]\w*|\d+(?:\.\d+)?|[^\s\w]")
_IMPORT = re.compile(r"^\s*from\s+course_lib[\w.]*\s+import\s+(\([^)]*\)|[^\n(]+)", re.MULTILINE)
_WHOLE = re.compile(r"^\s*import\s+course_lib[\w.]*(?:\s+as\s+(\w+))?", re.MULTILINE)
_RUN = 12  # words in a row that are compared: shorter runs are alike by chance
_FEWEST = 60  # such runs in a notebook: less is too little to say that two are alike
_ALIKE = 0.8


@dataclass(frozen=True)
class Remark:
    """One sentence about one or two students."""

    students: tuple[str, ...]
    text: str


def remarks(submissions: Sequence[Submission], asked: Sequence[Asked]) -> list[Remark]:
    """Answers that use the library's own, edited locked cells, and submissions that are nearly the same."""
    found = [remark for submission in submissions for remark in _own(submission, asked)]
    return found + _alike(submissions, asked)


def _own(submission: Submission, asked: Sequence[Asked]) -> list[Remark]:
    found = []
    for one in asked:
        handed = submission.notebooks.get(one.name)
        cells = handed.cells if handed else ()
        taken = {name for cell in cells for name in _taken(cell.source)} - {"check", "hint"}
        edited = []
        for cell in cells:
            name = str(cell.grade_id)
            if one.marks.get(name, {}).get("locked") and cell.source.strip() != one.handed_out[name].strip():
                edited.append(name)
            used = (
                sorted(taken & _used(cell.source)) if name.startswith("ex-") and cell.kind == "code" else []
            )
            if used:
                found.append(f"{one.name}: {name[:30]} uses the library's {', '.join(used)}")
        if edited:
            found.append(f"{one.name}: locked cells were edited ({', '.join(dict.fromkeys(edited))})")
    return [Remark((submission.student,), text) for text in found]


def _used(source: str) -> set[str]:
    """Global names that the code reads: no word of a comment, no parameter of the same name."""
    chosen, _ = statements([{"number": 0, "exercise": True, "source": source}], [])
    return {name for statement in chosen for name in statement.uses}


def _taken(source: str) -> list[str]:
    """Names that are imported from the course's library, as they are called afterwards."""
    lists = (names.strip("() ").split(",") for names in _IMPORT.findall(source))
    whole = [alias or "course_lib" for alias in _WHOLE.findall(source)]
    return whole + [name.split(" as ")[-1].strip() for names in lists for name in names if name.strip()]


def _words(source: str) -> list[str]:
    """Words of the code, comments included: alike comments say more than alike formulas."""
    return _WORD.findall(source)


def _runs(submission: Submission, one: Asked) -> set[bytes]:
    """Fingerprints of all runs of words in what the student wrote in a notebook (Schleimer et al. 2003,
    without the winnowing: submissions are short).
    """
    given = {source for _, _, source in one.cells}
    handed = submission.notebooks.get(one.name)
    found = set()
    for cell in handed.cells if handed else ():
        words = [] if cell.source in given else _words(cell.source)[:20_000]
        for i in range(len(words) - _RUN + 1):
            found.add(hashlib.blake2b("\0".join(words[i : i + _RUN]).encode(), digest_size=8).digest())
    return found


def _alike(submissions: Sequence[Submission], asked: Sequence[Asked]) -> list[Remark]:
    """Pairs that share most of their runs in some notebook, those of half the class left out."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in asked:
        runs = {s.student: _runs(s, one) for s in submissions}
        if len(runs) > 4:
            counts = Counter(run for own in runs.values() for run in own)
            often = {run for run, n in counts.items() if n > len(runs) / 2}
            runs = {student: own - often for student, own in runs.items()}
        enough = sorted(student for student, own in runs.items() if len(own) >= _FEWEST)
        for pair in combinations(enough, 2):
            mine, theirs = (runs[student] for student in pair)
            share = len(mine & theirs) / len(mine | theirs)
            if share >= _ALIKE:
                found[pair].append(f"{one.name}: {share:.0%} of what they wrote is the same")
    return [Remark(pair, "; ".join(said)) for pair, said in sorted(found.items())]
