"""Calling a student's function: on copies, for a limited time, and whatever happens the notebook goes on."""

from __future__ import annotations

import copy
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from course_lib.exercises.compare import NotPlain, plain

SECONDS = 10.0  # for all calls of one check
NOTHING = "it returned nothing: does it end with `return …`?"


class TooSlow(BaseException):
    """The time for the answer is over (a BaseException, so that a student's ``except Exception`` lets it
    through).
    """


@dataclass(frozen=True)
class Outcome:
    """What one call gave: a plain value, or why there is none."""

    value: Any = None
    problem: str | None = None  # a sentence
    unattempted: bool = False
    too_slow: bool = False


LATE = Outcome(problem="the calls before it took all the time there is", too_slow=True)


def call_all(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], seconds: float = SECONDS
) -> Iterator[Outcome]:
    """The outcome of each call, up to one that takes too long; ``seconds`` are for all of them together.

    The clock rings within a call alone: whoever takes the outcomes is never interrupted.
    """
    end = time.monotonic() + seconds
    for arguments in calls:
        left = end - time.monotonic()
        outcome = call(function, arguments, left) if left > 0 else LATE
        yield outcome
        if outcome.too_slow:
            return


def call(function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float = SECONDS) -> Outcome:
    """One call on copies of the arguments. KeyboardInterrupt alone is let through."""
    try:
        with time_limit(seconds):
            with np.errstate(all="ignore"), warnings.catch_warnings():  # a NaN is told in a sentence of ours
                warnings.simplefilter("ignore")
                result = function(*copy.deepcopy(arguments))
            if result is None or result is Ellipsis:
                return Outcome(problem=NOTHING, unattempted=True)
            return Outcome(plain(result))
    except NotImplementedError:
        return Outcome(problem="it is not written yet", unattempted=True)
    except NotPlain as error:
        return Outcome(problem=str(error))
    except KeyboardInterrupt:
        raise
    except TooSlow:
        return Outcome(
            problem=f"it did not end within {round(seconds, 1):g} seconds: is there a loop that never ends?",
            too_slow=True,
        )
    except BaseException as error:  # a student's sys.exit() must not end the notebook
        return Outcome(problem=_told(error))


def _told(error: BaseException) -> str:
    """Kind, message, and the student's own line that raised it."""
    try:
        message = next(iter(str(error).splitlines()), "")
    except Exception:  # an error of the student's own making may fail to say what it is
        message = ""
    kind = type(error).__name__
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "course_lib" not in frame.filename]
    where = f", in the line `{own[-1].line}`" if own and own[-1].line else ""
    return f"it raised {kind}{': ' + message if message else ''}{where}"


@contextmanager
def time_limit(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TooSlow in this thread after ``seconds``, where the system can (main thread, POSIX)."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    running = True

    def ring(number: int, frame: FrameType | None) -> None:
        if running:  # a bell that rings on the way out must leave neither an error nor a running clock behind
            raise TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, for code that catches everything
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
