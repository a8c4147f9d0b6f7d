"""What an exercise is: one record with its inputs, its reference answer, and the mistakes it knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One call of the answer: plain arguments (numbers, strings, lists, arrays), and the property it
    tests.
    """

    property: str  # completes "the answer …", e.g. "counts keys and values"
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that students give: how it is computed, and the hint that it deserves."""

    name: str
    answer: Callable[..., Any]
    hint: str


@dataclass(frozen=True)
class Exercise:
    """One exercise. ``cases(rng)`` yields calls from the smallest to the largest, at least one for each
    property.

    Grading runs the student's function elsewhere on ``cases`` of a secret seed; so arguments and results
    are plain.
    """

    id: str  # "1.2": chapter and number
    title: str
    text: str  # what is asked, in a sentence or two
    parameters: tuple[str, ...]  # names of the answer's arguments, in order
    cases: Callable[[np.random.Generator], Sequence[Case]]
    reference: Callable[..., Any]
    mistakes: tuple[Mistake, ...]
    difficulty: int  # 1: one thought, 2: some thoughts in a row, 3: work with pencil and paper
    hints: tuple[str, str]  # the second says nearly all
    returns: tuple[str, ...] = ()  # names of the values, where the answer returns several
    points: int = 2
    tolerance: float = 1e-9  # relative

    @property
    def stars(self) -> str:
        """The difficulty as it is shown: ★☆☆ to ★★★."""
        return "★" * self.difficulty + "☆" * (3 - self.difficulty)

    @property
    def chapter(self) -> int:
        return int(self.id.split(".")[0])
