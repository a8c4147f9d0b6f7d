"""Two small real tasks with one right answer each: sums ("math"), and parameters of real functions
("code").
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np

from course_lib.lm.corpus import documents
from course_lib.train.fine_tune import Example


def arithmetic(count: int, seed: int = 0, largest: int = 99) -> list[Example]:
    """Different sums up to ``largest`` + ``largest``, e.g. "# 27 + 8 =" → " 35"; ValueError for too many."""
    pairs = (largest + 1) ** 2
    if count > pairs:
        raise ValueError(f"there are {pairs} sums of numbers up to {largest}, {count} were asked for")
    chosen = np.random.default_rng(seed).permutation(pairs)[:count]
    sums = [divmod(int(pair), largest + 1) for pair in chosen]
    return [Example(f"# {a} + {b} =", f" {a + b}") for a, b in sums]


def parameters_of_functions(count: int, seed: int = 0) -> list[Example]:
    """Headers of real functions of the corpus, to be followed by their parameters' names.

    E.g. "def join(self, path, sep=None):\\n    # names:" → " self, path, sep". Names and order are Python's
    own (``ast``). Raises ValueError where the corpus does not hold so many different ones.
    """
    found: dict[str, Example] = {}
    for text in documents("train"):
        for example in _headers(text):
            found.setdefault(example.prompt, example)
        if len(found) >= 4 * count:
            break
    if len(found) < count:
        raise ValueError(f"the corpus holds {len(found)} such functions, {count} were asked for")
    examples = list(found.values())
    return [examples[i] for i in np.random.default_rng(seed).permutation(len(examples))[:count]]


def _headers(text: str) -> Iterator[Example]:
    """One example for every function of 2 to 5 parameters whose header stands on one short line."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            header = lines[node.lineno - 1].strip()
            names = [
                argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            ]
            plain = node.args.vararg is None and node.args.kwarg is None and header.endswith(":")
            if plain and 2 <= len(names) <= 5 and len(header) <= 60 and header.isascii():
                yield Example(f"{header}\n    # names:", " " + ", ".join(names))
