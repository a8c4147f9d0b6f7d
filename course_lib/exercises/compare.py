"""Comparing what a function returned with what it should have: on plain values alone, so that no object can
lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_LARGEST = 10_000_000  # numbers in a result; more is no answer to any exercise
_ROUNDING = 1e-13  # of numbers about 1: another method may leave it where this one gives exactly 0
_FEW = 8  # numbers of an array that are shown in full


class NotPlain(TypeError):
    """The result is of a kind that no exercise asks for."""


def plain(value: Any) -> Any:
    """The value as Python numbers, strings, lists, dicts and numpy arrays; NotPlain, saying what it is, for
    the rest.

    Types are compared exactly: a subclass could overload comparison and equal everything.
    """
    kind = type(value)
    if kind in (bool, int, float, str, type(None)):
        return value
    if isinstance(value, np.generic):
        return _number(value)
    if kind is np.ndarray and value.dtype.kind in "biuf" and value.size <= _LARGEST:
        return value.copy()
    if kind.__module__ in ("torch", "torch.nn.parameter") and kind.__name__ in ("Tensor", "Parameter"):
        return plain(value.detach().cpu().numpy())
    if kind in (list, tuple) and len(value) <= _LARGEST:
        return [plain(part) for part in value]
    if kind is dict and len(value) <= _LARGEST:
        return {str(key): plain(part) for key, part in value.items()}
    raise NotPlain(
        f"it returned a {kind.__name__}, which cannot be checked; return numbers, arrays or lists of them"
    )


def _number(value: np.generic) -> Any:
    """numpy's own scalar as Python's; whatever a subclass says of itself is not asked."""
    item = np.generic.item(value)
    if isinstance(item, np.longdouble):
        return float(np.longdouble.__float__(item))
    if type(item) in (bool, int, float, str):
        return item
    raise NotPlain(f"it returned a {type(value).__name__}, which cannot be checked; return a number")


def difference(expected: Any, got: Any, tolerance: float, names: Sequence[str] = ()) -> str | None:
    """What is wrong with ``got`` (both plain), in words; None where it is right within the relative
    tolerance. ``names`` are those of several values.
    """
    if isinstance(expected, list) and isinstance(got, (list, np.ndarray)):
        if len(expected) != len(got):
            values = "value" if len(got) == 1 else "values"
            return f"it returned {len(got)} {values}, where {len(expected)} should come back"
        named = names or [f"value {i}" for i in range(1, len(expected) + 1)]
        parts = zip(named, expected, got, strict=True)
        found = ((name, difference(e, plain(g), tolerance)) for name, e, g in parts)
        return next((f"in {name}, {said}" for name, said in found if said), None)
    if isinstance(expected, np.ndarray) or isinstance(got, np.ndarray):
        return _array_difference(np.asarray(expected), got, tolerance)
    if isinstance(expected, (bool, str)) or expected is None:
        return None if type(got) is type(expected) and got == expected else f"it returned {shown(got)}"
    if not isinstance(got, (int, float)) or isinstance(got, bool):
        return f"it returned {shown(got)}, a number is asked for"
    if got != got:  # NaN
        if expected != expected:
            return None
        return "it returned NaN (not a number): something was divided by zero, or a root of a negative taken"
    return None if _close(expected, got, tolerance) else _unlike(expected, got)


def _close(expected: float, got: float, tolerance: float) -> bool:
    try:
        return math.isclose(expected, got, rel_tol=tolerance, abs_tol=_ROUNDING)
    except OverflowError:  # an integer beyond the largest float
        return expected == got


def _unlike(expected: Any, got: Any) -> str:
    """Both values, with all their digits where the first few are the same."""
    pair = shown(got), shown(expected)
    if pair[0] == pair[1]:
        pair = repr(got), repr(expected)
    return f"it returned {pair[0]}, but {pair[1]} is right"


def _array_difference(expected: np.ndarray, got: Any, tolerance: float) -> str | None:
    if not isinstance(got, (np.ndarray, list, int, float)) or isinstance(got, bool):
        return f"it returned {shown(got)}, an array is asked for"
    try:
        array = np.asarray(got, dtype=float)
    except (TypeError, ValueError):
        return f"it returned {shown(got)}, an array of numbers is asked for"
    if array.shape != expected.shape:
        return f"it returned an array of shape {array.shape}, {expected.shape} is asked for"
    if np.isnan(array).any() and not np.isnan(expected).any():
        return "it returned NaN (not a number) in some place: a division by zero, or a root of a negative?"
    size = float(np.max(np.abs(expected[np.isfinite(expected)]), initial=0.0))
    right = np.isclose(array, expected, rtol=tolerance, atol=tolerance * size, equal_nan=True)
    if right.all():
        return None
    if expected.size <= _FEW:
        return _unlike(expected, array)
    place = np.unravel_index(int(np.argmin(right)), right.shape)
    where = ", ".join(str(int(i)) for i in place)
    return f"at index [{where}], {_unlike(expected[place].item(), array[place].item())}"


def shown(value: Any) -> str:
    """A value as a person reads it in one line."""
    if isinstance(value, np.ndarray):
        return (
            np.array2string(value, precision=5, threshold=8, separator=", ")
            .replace("\n", "")
            .replace("[ ", "[")
        )
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e6 <= abs(value) < 1e15 else f"{value:,.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 10**21 else f"an integer of about {_digits(value)} digits"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(shown(part) for part in value[:6]) + (", …" if len(value) > 6 else "")
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    try:
        text = repr(value)
    except Exception:  # an object of the student's own making may fail to say what it is
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "…"


def _digits(number: int) -> int:
    return round(abs(number).bit_length() * math.log10(2))
