"""What of a notebook has to run so that its answers exist: the exercises' cells and what they need.

A class is not billed for the demonstrations: of the other cells only those statements run that define a name
which the answers use, directly or through each other.
"""

from __future__ import annotations

import ast
import dis
import linecache
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

_TIMED = re.compile(r"^%%(time|timeit|capture|prun)\b.*$", re.MULTILINE)
_MAGIC = re.compile(r"^(\s*)[%!].*$", re.MULTILINE)
_MAGIC_LINE = re.compile(r"^[%!].*$", re.MULTILINE)
_HELP = re.compile(r"^[ \t]*(\?{1,2}[\w.]+|[\w.]+\?{1,2})[ \t]*$", re.MULTILINE)
_TAKEN = re.compile(r"^([ \t]*[\w, ]+=)[ \t]*[%!].*$", re.MULTILINE)  # files = !ls


_NOTHING = compile("pass", "<nothing>", "exec")


@dataclass(frozen=True)
class Statement:
    """One statement at the top of a cell, and the global names that it uses and sets."""

    cell: int
    exercise: bool  # stands in an exercise's cell
    code: CodeType
    uses: frozenset[str]
    sets: frozenset[str]
    imports: bool = False
    stub: str | None = None  # name of the function that is still the handed-out stub
    check: tuple[str, str] | None = None  # exercise and name of an answer that is shown to `check` here


def statements(
    cells: Sequence[dict[str, Any]], names: Sequence[str]
) -> tuple[list[Statement], dict[int, str]]:
    """The statements to run so that ``names`` exist, in order, and a sentence on each cell that cannot be
    read.
    """
    found: list[Statement] = []
    broken: dict[int, str] = {}
    for cell in cells:
        try:
            found.extend(_of_cell(cell))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            broken[cell["number"]] = f"the cell cannot be read as Python ({type(error).__name__}{line})"
    return _needed(_without_spare_stubs(found), set(names)), broken


def _of_cell(cell: dict[str, Any]) -> Iterator[Statement]:
    name = f"<cell {cell['number'] + 1}>"
    source, tree = _parsed(cell["source"], name)
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    for node in tree.body:
        if _is_check(node):
            if shown := _shown(node):
                yield Statement(cell["number"], False, _NOTHING, frozenset(), frozenset(), check=shown)
            continue
        code = compile(ast.Module([node], []), name, "exec", dont_inherit=True)
        uses, sets = _globals(code)
        stub = node.name if isinstance(node, ast.FunctionDef) and _is_stub(node) else None
        sets |= _touched(node)
        imports = isinstance(node, (ast.Import, ast.ImportFrom))
        yield Statement(
            cell["number"], cell["exercise"], code, frozenset(uses), frozenset(sets), imports, stub
        )


def _parsed(source: str, name: str) -> tuple[str, ast.Module]:
    """The cell as Python. IPython's own lines are taken out only where it is none, those that are not
    indented first: a line that goes on with the operator `%` is no magic.
    """
    plain = _HELP.sub("", _TAKEN.sub(r"\1 []", _TIMED.sub("", source)))
    for tried in (source, _MAGIC_LINE.sub("pass", plain)):
        try:
            return tried, ast.parse(tried, name)
        except SyntaxError:
            continue
    tried = _MAGIC.sub(r"\1pass", plain)
    return tried, ast.parse(tried, name)


def _is_check(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, (ast.Expr, ast.Assign)) else None
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "check"


def _shown(node: Any) -> tuple[str, str] | None:
    """Exercise and name in ``check("1.1", answer)``."""
    match node.value.args:
        case [ast.Constant(value=str(exercise)), ast.Name(id=name)]:
            return exercise, name
    return None


def _is_stub(node: ast.FunctionDef) -> bool:
    said = [isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) for part in node.body]
    body = [part for part, prose in zip(node.body, said, strict=True) if not prose]
    raised = body[0].exc if len(body) == 1 and isinstance(body[0], ast.Raise) else None
    kind = raised.func if isinstance(raised, ast.Call) else raised
    return isinstance(kind, ast.Name) and kind.id == "NotImplementedError"


def _touched(node: ast.stmt) -> set[str]:
    """Names whose object the statement changes: ``table[0] = 1``, ``table.append(2)``."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
        return {"*"} if isinstance(node, ast.ImportFrom) and node.names[0].name == "*" else set()
    found = set()
    for part in ast.walk(node):
        base: Any = part if isinstance(part, (ast.Subscript, ast.Attribute)) else None
        if base is not None and not isinstance(part.ctx, ast.Store):  # type: ignore[attr-defined]
            base = None
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            base = part.value.func if isinstance(part.value.func, ast.Attribute) else None
        while isinstance(base, (ast.Subscript, ast.Attribute)):
            base = base.value
        if isinstance(base, ast.Name):
            found.add(base.id)
    return found


def _globals(code: CodeType) -> tuple[set[str], set[str]]:
    """Global names that the code, and the functions within it, read and set."""
    uses, sets = set(), set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"):
            uses.add(step.argval)
        elif step.opname in ("STORE_NAME", "STORE_GLOBAL"):
            sets.add(step.argval)
    for part in code.co_consts:
        if isinstance(part, CodeType):
            inner_uses, inner_sets = _globals(part)
            uses |= inner_uses
            sets |= {name for name in inner_sets if part.co_flags & 0x2 and name in part.co_names}
    return uses, sets


def _without_spare_stubs(found: list[Statement]) -> list[Statement]:
    """A stub that stands beside an answer of the same name (a cell pasted twice) does not replace it."""
    answered = {name for s in found if s.stub is None for name in s.sets}
    return [s for s in found if s.stub is None or s.stub not in answered]


def _needed(found: list[Statement], names: set[str]) -> list[Statement]:
    modules = {
        name for s in found if s.imports for name in s.sets
    }  # np.set_printoptions() is no part of an answer
    found = [s if s.imports else replace(s, sets=s.sets - modules) for s in found]
    chosen = {i for i, s in enumerate(found) if s.exercise or s.check or "*" in s.sets}
    for name in names:
        chosen |= _makes(found, name)
    needed = {name for i in chosen for name in found[i].uses}
    while True:
        more = {i for i, s in enumerate(found) if i not in chosen and s.sets & needed}
        if not more:
            return [found[i] for i in sorted(chosen)]
        chosen |= more
        needed |= {name for i in more for name in found[i].uses}


def _makes(found: list[Statement], name: str) -> set[int]:
    """The statements outside of exercises that have a part in an answer: those between the exercise's own, if
    there are any, and the last `check` after them. A name may mean something else before and after.
    """
    begin = max((i for i, s in enumerate(found) if s.exercise and name in s.sets), default=-1)
    checks = [i for i, s in enumerate(found) if s.check and s.check[1] == name and i > begin]
    end = max(checks, default=len(found))
    return {i for i in range(begin + 1, end) if name in found[i].sets}
