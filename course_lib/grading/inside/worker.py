"""Runs in the sandbox: builds a submission's answers, then calls them as it is told. It judges nothing.

Requests come through descriptor 0, replies go through descriptor 1. Whatever a student's code does to this
process, it can send values only, and a value earns a point only by being right.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from typing import Any

from course_lib.exercises.run import TooSlow, call, call_all, time_limit
from course_lib.grading.inside.messages import REPLY_HEAD, BadMessage, decode, encode
from course_lib.grading.inside.program import statements

IMPORT_SECONDS = 60.0  # PyTorch takes seconds to load, and many on a busy machine: no fault of an answer's
_LONGEST = 400  # characters of a sentence


def main() -> None:
    """Answer requests until there are no more."""
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    first = _read(requests)
    if first is None:  # only tried out
        return
    _limit(first["limits"])
    _write(replies, {"ready": True})
    spaces: dict[int, dict[str, Any]] = {}
    checked: dict[int, dict[tuple[str, str], Any]] = {}
    broken: dict[int, dict[int, str]] = {}
    while (request := _read(requests)) is not None:
        chapter = request["chapter"]
        if request["do"] == "build":
            built = _build(request, replies, first["seconds"])
            spaces[chapter], checked[chapter], broken[chapter] = built
            _write(replies, {"built": [[cell, said[:_LONGEST]] for cell, said in broken[chapter].items()]})
        else:
            known = spaces.get(chapter, {}), checked.get(chapter, {})
            _answer(request, *known, replies, first["seconds"])


def _limit(limits: dict[str, int]) -> None:
    """Hard limits: no code after this can raise them."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _build(
    request: dict[str, Any], replies: int, seconds: float
) -> tuple[dict[str, Any], dict[tuple[str, str], Any], dict[int, str]]:
    """Run the cells' statements in a namespace of their own: that, the answers as they were where `check` saw
    them last, by exercise and name, and a sentence on each cell where a statement failed.
    """
    space: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    checked: dict[tuple[str, str], Any] = {}
    chosen, broken = statements(request["cells"], request["names"])
    running, importing = -1, False
    for statement in chosen:
        if statement.check:
            if statement.check[1] in space:
                checked[statement.check] = space[statement.check[1]]
            continue
        if statement.exercise:  # another answer to the same: the last one counts
            checked = {key: kept for key, kept in checked.items() if key[1] not in statement.sets}
        if (statement.cell, statement.imports) != (running, importing):
            running, importing = statement.cell, statement.imports
            _write(replies, {"running": running, "importing": importing})
        try:
            with time_limit(IMPORT_SECONDS if importing else seconds):
                exec(statement.code, space)
        except TooSlow:
            allowed = IMPORT_SECONDS if importing else seconds
            broken[running] = f"a statement did not end within {allowed:.0f} seconds"
        except BaseException as error:  # sys.exit() too: the cells after it still count
            broken.setdefault(running, f"a statement raised {type(error).__name__}: {_text(error)}")
    return space, checked, broken


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_LONGEST]
    except BaseException:
        return "(an error that cannot say what it is)"


def _answer(
    request: dict[str, Any],
    space: dict[str, Any],
    checked: dict[tuple[str, str], Any],
    replies: int,
    seconds: float,
) -> None:
    """One reply for each call, or one that says that there is nothing to call."""
    keys = [(request["exercise"], name) for name in request["names"]]
    found = [checked.get(key, space.get(key[1])) for key in keys if key in checked or key[1] in space]
    if not found:
        return _write(replies, {"missing": True})
    answer = found[0]
    if not request["takes"] and not callable(answer):
        return _write(replies, _plain_reply(call(lambda: answer, ())))
    if answer is None or answer is Ellipsis:
        return _write(replies, {"missing": True})
    for outcome in call_all(answer, request["calls"], seconds):
        _write(replies, _plain_reply(outcome))
    return None


def _plain_reply(outcome: Any) -> dict[str, Any]:
    reply = {"value": outcome.value, "unattempted": outcome.unattempted, "too_slow": outcome.too_slow}
    return reply | {"problem": outcome.problem[:_LONGEST] if outcome.problem else None}


def _write(descriptor: int, message: Any) -> None:
    try:
        frame = encode(message, REPLY_HEAD)
    except (BadMessage, ValueError, TypeError, RecursionError) as error:
        frame = encode({"problem": f"its result cannot be checked: {str(error)[:_LONGEST]}"})
    while frame:
        frame = frame[os.write(descriptor, frame) :]


def _read(descriptor: int) -> Any:
    size = _exactly(descriptor, 4)
    return decode(_exactly(descriptor, struct.unpack(">I", size)[0])) if size else None


def _exactly(descriptor: int, size: int) -> bytes:
    """That many bytes; none where there is no more."""
    parts = b""
    while len(parts) < size:
        part = os.read(descriptor, size - len(parts))
        if not part:
            return b""
        parts += part
    return parts


if __name__ == "__main__":
    main()
    sys.stdout = None  # type: ignore[assignment]
    os._exit(0)  # threads that a student's code left running end here
