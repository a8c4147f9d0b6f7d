"""One submission's process in the sandbox: asked for results, and started again where an answer ended it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from course_lib.exercises import Case, Exercise
from course_lib.exercises.compare import NotPlain, plain
from course_lib.exercises.run import LATE, Outcome
from course_lib.grading.inside.worker import IMPORT_SECONDS
from course_lib.grading.plan import CHECK, Asked
from course_lib.grading.sandbox import NoSandbox, Sandbox
from course_lib.grading.submission import Cell, Handed
from course_lib.grading.worker_process import Worker, WorkerGone

_STARTUP = 60.0  # seconds for a worker to start on a busy machine
_RESTARTS = 12  # of a worker, for one submission


class Session:
    """A submission's worker: started when it is needed, and again where an answer ended it."""

    def __init__(self, box: Sandbox, slot: int) -> None:
        self._box, self._slot = box, slot
        self._worker: Worker | None = None
        self._starts = 0
        self._deadline = time.monotonic() + box.limits.total_seconds
        self._left_out: set[int] = set()
        self.broken: dict[int, str] = {}

    def close(self) -> None:
        if self._worker is not None:
            self._worker.__exit__()
            self._worker = None
        self._built = False

    def open(self, one: Asked, handed: Handed) -> None:
        """Turn to a notebook."""
        self._one, self._built = one, False
        self._left_out, self.broken = set(), {}
        self._cells = [cell for cell in handed.cells if cell.kind == "code" or _is_answer(cell)]
        self._names = {record.id: [one.answers[record.id]] for record in one.exercises}
        for cell in handed.cells:
            for exercise, name in CHECK.findall(cell.source):
                self._names.get(exercise, []).append(name[:100])

    def ask(self, record: Exercise, cases: Sequence[Case]) -> list[Outcome] | None:
        """The outcome of each call; None where there is no answer."""
        outcomes: list[Outcome] = []
        try:
            while not self._built:
                self._build()
            if not self._call(record, cases, outcomes):
                return None
        except WorkerGone as gone:  # what came before it counts
            self.close()
            outcomes.append(Outcome(problem=f"the process {gone}: it was stopped", too_slow=True))
        late = outcomes[0] if outcomes[0].too_slow else LATE
        return outcomes + [late] * (len(cases) - len(outcomes))

    def why_missing(self, record: Exercise) -> str | None:
        """What is wrong with the exercise's own cell; None where nothing was answered."""
        name = f"ex-{record.id.replace('.', '-')}"
        own = [cell.number for cell in self._cells if cell.grade_id == name]
        said = [self.broken[number] for number in own if number in self.broken]
        return said[0] if said else None

    def _start(self) -> Worker:
        limits = self._box.limits
        if self._starts > _RESTARTS or time.monotonic() > self._deadline:
            raise WorkerGone("used up the submission's time")
        self._starts += 1
        self._worker = Worker(self._box, self._slot)
        try:
            self._worker.send({"limits": self._box.process_limits(), "seconds": limits.seconds}, _STARTUP)
            ready = self._worker.receive(_STARTUP) == {"ready": True}
        except WorkerGone as gone:  # before any line of the student's ran: this is no answer's fault
            self.close()
            raise NoSandbox(f"a sandbox did not start: its process {gone}") from None
        if not ready:
            raise NoSandbox("a sandbox did not start: what it sent is no greeting")
        return self._worker

    def _build(self) -> None:
        """Run the notebook's cells; a cell that ends the process is left out the next time."""
        running = None
        worker = self._worker or self._start()
        names = [name for all_names in self._names.values() for name in all_names]
        cells = [_sent(cell) for cell in self._cells if cell.number not in self._left_out]
        try:
            request = {"do": "build", "chapter": self._one.chapter, "cells": cells, "names": names}
            worker.send(request, self._patience())
            patience = self._patience()
            while "built" not in (reply := _mapping(worker.receive(patience))):
                running = reply.get("running")
                importing = reply.get("importing") is True
                patience = self._patience(IMPORT_SECONDS if importing else self._box.limits.seconds)
            self.broken |= self._told(reply["built"])
            self._built = True
        except (WorkerGone, ValueError, TypeError) as error:
            self.close()
            there = {cell.number for cell in self._cells} - self._left_out
            if type(running) is not int or running not in there:
                raise WorkerGone("ended while its cells ran") from None
            self._left_out.add(running)
            self.broken[running] = f"it was left out, because the process {error} while it ran"

    def _told(self, built: Any) -> dict[int, str]:
        """What the worker says of cells; of those alone that there are."""
        numbers = {cell.number for cell in self._cells}
        return {n: _printable(said, 500) for n, said in built if type(n) is int and n in numbers}

    def _patience(self, seconds: float | None = None) -> float:
        """Seconds to wait for a reply to what may take ``seconds``: within those left for the submission."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise WorkerGone("used up the submission's time")
        return min(2 * (seconds or self._box.limits.seconds) + 5.0, left)

    def _call(self, record: Exercise, cases: Sequence[Case], outcomes: list[Outcome]) -> bool:
        """Append outcomes up to one that took too long; False where there is no answer."""
        assert self._worker is not None
        calls = [case.arguments for case in cases]
        request = {
            "do": "call", "chapter": self._one.chapter, "exercise": record.id,
            "names": self._names[record.id], "takes": bool(record.parameters), "calls": calls,
        }  # fmt: skip
        self._worker.send(request, self._patience())
        while len(outcomes) < len(cases):
            reply = _mapping(self._worker.receive(self._patience()))
            if reply.get("missing"):
                return False
            outcomes.append(_outcome(reply))
            if outcomes[-1].too_slow:
                break
        return True


def _is_answer(cell: Cell) -> bool:
    """A cell of another type under an exercise's name is read as code, where it can be."""
    return bool(cell.grade_id and cell.grade_id.startswith("ex-") and "def " in cell.source)


def _sent(cell: Cell) -> dict[str, Any]:
    mine = bool(cell.grade_id and cell.grade_id.startswith("ex-"))
    return {"number": cell.number, "exercise": mine, "source": cell.source}


def _mapping(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise WorkerGone("sent what is no message (not a mapping)")
    return reply


def _outcome(reply: dict[str, Any]) -> Outcome:
    """What the worker said of one call, as plain values of our own; a lie costs the liar alone."""
    problem = reply.get("problem")
    text = _printable(problem, 400) if problem else None
    try:
        value = plain(reply.get("value"))
    except (NotPlain, RecursionError) as error:
        value, text = None, str(error)
    if value is None and text is None:
        text = "it returned nothing"
    return Outcome(value, text, reply.get("unattempted") is True, reply.get("too_slow") is True)


def _printable(text: Any, longest: int) -> str:
    """A sentence of the worker's, as it may stand in a page and in a database."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:longest])
