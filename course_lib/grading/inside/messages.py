"""Messages between the grader and the sandbox: a JSON head and raw arrays, never a pickle.

A frame is its length (4 bytes), the length of the head (4 bytes), the head, and the arrays' bytes one after
another. Everything that is read is checked before it is used: the other side may be hostile.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

LARGEST = 16 * 2**20  # bytes of a frame
REPLY_HEAD = 2**19  # of a reply's JSON: reading millions of lists would take the grader minutes
_KINDS = "biuf"
_DEEPEST = 20  # levels of lists within lists


class BadMessage(ValueError):
    """What came through the pipe is no message; the text says why."""


def encode(message: Any, largest_head: int = LARGEST) -> bytes:
    """A frame for numbers, strings, None, lists, tuples, dicts and numeric arrays. BadMessage where it is too
    large.
    """
    arrays: list[bytes] = []
    head = json.dumps(_packed(message, arrays, 0)).encode()
    if len(head) > largest_head:
        raise BadMessage("the result has too many parts; return an array")
    body = struct.pack(">I", len(head)) + head + b"".join(arrays)
    if len(body) > LARGEST:
        raise _too_large(len(body))
    return struct.pack(">I", len(body)) + body


def _too_large(size: int) -> BadMessage:
    return BadMessage(f"the result takes {size / 1e6:.0f} MB, {LARGEST / 1e6:.0f} MB are allowed")


def decode(body: bytes, largest_head: int = LARGEST) -> Any:
    """The message in a frame (without its leading length). BadMessage for whatever is not one."""
    try:
        (size,) = struct.unpack_from(">I", body)
        if size > largest_head:
            raise BadMessage("too many parts")
        head = json.loads(body[4 : 4 + size])
        value, end = _unpacked(head, body, 4 + size, 0)
    except BadMessage:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, struct.error, RecursionError) as error:
        raise BadMessage(f"unreadable: {type(error).__name__}") from None
    if end != len(body):
        raise BadMessage("bytes are left over")
    return value


def _packed(value: Any, arrays: list[bytes], depth: int) -> Any:
    if depth > _DEEPEST:
        raise BadMessage("lists within lists within lists, without end")
    if type(value) is np.ndarray:
        if value.nbytes > LARGEST:  # said before it is copied
            raise _too_large(value.nbytes)
        little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
        arrays.append(little.tobytes())
        return {"a": [little.dtype.str, list(value.shape)]}
    if type(value) is tuple:
        return {"t": [_packed(part, arrays, depth + 1) for part in value]}
    if type(value) is list:
        return [_packed(part, arrays, depth + 1) for part in value]
    if type(value) is dict:
        return {"d": [[str(key), _packed(part, arrays, depth + 1)] for key, part in value.items()]}
    return value


def _unpacked(value: Any, body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """The value, and where the next array begins."""
    if depth > _DEEPEST:
        raise BadMessage("lists within lists within lists, without end")
    if isinstance(value, list):
        parts = []
        for part in value:
            made, at = _unpacked(part, body, at, depth + 1)
            parts.append(made)
        return parts, at
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind == "a":
            return _array(content, body, at)
        if kind == "t":
            made, at = _unpacked(content, body, at, depth)
            return tuple(made), at
        if kind != "d":
            raise BadMessage("an unknown kind of value")
        names, parts = [str(name) for name, _ in content], [part for _, part in content]
        made, at = _unpacked(parts, body, at, depth)
        return dict(zip(names, made, strict=True)), at
    return value, at


def _array(content: Any, body: bytes, at: int) -> tuple[np.ndarray, int]:
    name, shape = content
    dtype = np.dtype(str(name))
    if dtype.kind not in _KINDS or dtype.hasobject or len(shape) > 16:
        raise BadMessage("an array of a kind that no exercise asks for")
    if not all(type(n) is int and 0 <= n <= LARGEST for n in shape):
        raise BadMessage("an array of an impossible shape")
    size = math.prod(shape) * dtype.itemsize
    if at + size > len(body):
        raise BadMessage("an array that is not there")
    return np.frombuffer(body[at : at + size], dtype).reshape(shape).astype(
        dtype.newbyteorder("=")
    ), at + size
