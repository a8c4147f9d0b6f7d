"""Mutants of every reference: `check` rejects them, or they are equivalent for a reason that is given."""

import ast
import copy
import inspect
import textwrap

import numpy as np
import pytest

from course_lib.exercises import exercises, judge

ALL = exercises()
SWAPS = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,), ast.Mult: (ast.Div, ast.Add), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div, ast.Mult),
    ast.Pow: (ast.Mult,), ast.MatMult: (ast.Mult,), ast.Mod: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.And: (ast.Or,), ast.Or: (ast.And,),
}  # fmt: skip
NAMES = {"max": "min", "min": "max", "sum": "mean", "mean": "sum", "log": "log2", "argmax": "argmin",
         "argmin": "argmax", "logaddexp": "add", "sqrt": "square", "abs": "negative",
         "hstack": "vstack", "concatenate": "vstack"}  # fmt: skip
_SWAPPED = "the larger, or the smaller, of two does not depend on their order"
_LAST = "the last axis of a matrix is its axis 1"
# exercise → part of the mutant's source → why it computes the same
EQUIVALENT = {
    "1.5": {"per_sequence, 0)": _SWAPPED},
    "3.3": {"min(d_in, d_out)": _SWAPPED},
    "2.2": {"A.shape[-1]": _LAST},
    "4.1": {"axis=-1": _LAST},
    "4.2": {"axis=-1": _LAST},
    "4.5": {
        "axis=-1)[:, None, None]": _LAST,
        "axis=-1)\n    return": "it is the last of three",
        "reshape(-2": "any number below 0 stands for what is left",
    },
    "4.7": {"max(operations / arithmetic, moved": _SWAPPED},
    "5.6": {"size < delta": "both branches are δ²/2 at δ"},
    "6.2": {"axis=-1": _LAST},
    "6.4": {
        "axis=-1": _LAST,
        "mask.shape[-1]": _LAST,
        "columns, -2": "any number below 0 is never the largest: every row has a real token",
    },
}


def sites(tree):
    """Every change of one place: (description, function that makes it in a copy of the tree)."""
    for i, node in enumerate(ast.walk(tree)):
        for wrong in SWAPS.get(type(getattr(node, "op", None)), ()):
            yield i, "op", wrong()
        if isinstance(node, ast.Compare):
            for wrong in SWAPS.get(type(node.ops[0]), ()):
                yield i, "ops", [wrong()]
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield i, "value", node.value + 1
            yield i, "value", -node.value if node.value else 2
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield i, "op", ast.UAdd()
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield i, "attr", NAMES[node.attr]
        if isinstance(node, ast.Attribute) and node.attr == "T":
            yield i, "attr", "real"  # not transposed
        if isinstance(node, (ast.Call, ast.List)):  # two neighbours change places
            field = "args" if isinstance(node, ast.Call) else "elts"
            if len(parts := getattr(node, field)) >= 2:
                yield i, field, [parts[1], parts[0], *parts[2:]]
        if isinstance(node, ast.Name) and node.id in ("max", "min"):
            yield i, "id", NAMES[node.id]


def mutants(record):
    """(source, function) of every mutant that still is Python."""
    source = textwrap.dedent(inspect.getsource(record.reference))
    tree = ast.parse(source)
    name = tree.body[0].name
    tree.body[0].returns = None
    for argument in tree.body[0].args.args:
        argument.annotation = None
    original = ast.unparse(tree)
    for place, field, wrong in sites(tree):
        changed = copy.deepcopy(tree)
        setattr(list(ast.walk(changed))[place], field, wrong)
        text = ast.unparse(ast.fix_missing_locations(changed))
        if text == original:
            continue
        space = dict(vars(inspect.getmodule(record.reference)))
        exec(compile(text, "<mutant>", "exec"), space)
        yield text, space[name]


def _mapped(change, value):
    """``change`` on every number and array of a result."""
    if isinstance(value, (list, tuple)):
        return [_mapped(change, part) for part in value]
    return change(value)


CASTS = {
    "negated": lambda v: -v,
    "doubled": lambda v: v * 2,
    "one more": lambda v: v + 1,
    "cut to whole numbers": lambda v: v.astype(int) if isinstance(v, np.ndarray) else int(v),
    "half precision": lambda v: np.asarray(v, dtype=np.float16).astype(float),
    "as text": str,
    "within a list": lambda v: [v],
    "transposed": lambda v: v.T if isinstance(v, np.ndarray) else v,
    "backwards": lambda v: v[::-1] if isinstance(v, np.ndarray) else v,
}


def _same(one, other):
    """Equal to the last bit, shape and kind of value included: no mutant at all."""
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return np.shape(one) == np.shape(other) and isinstance(other, str) == isinstance(one, str) and (
        bool(np.all(np.asarray(one) == np.asarray(other)))
    )  # fmt: skip


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("record", ALL, ids=lambda record: record.id)
def test_a_result_of_the_wrong_kind_is_rejected(record, cast):
    def answer(*arguments):
        return _mapped(CASTS[cast], record.reference(*arguments))

    with np.errstate(all="ignore"):
        pairs = [(record.reference(*c.arguments), answer(*c.arguments))
                 for c in record.cases(np.random.default_rng(2024))]  # fmt: skip
    if not all(_same(*pair) for pair in pairs):
        assert judge(record, answer).status == "wrong"


@pytest.fixture(scope="module")
def survivors():
    """By exercise: how many mutants there are, and those that `check` called correct."""
    found = {}
    for record in ALL:
        made = list(mutants(record))
        alive = [text for text, answer in made if judge(record, answer).status == "correct"]
        found[record.id] = (len(made), alive)
    return found


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.id)
def test_mutants_are_rejected(survivors, record):
    made, alive = survivors[record.id]
    unexplained = [text for text in alive if not any(part in text for part in EQUIVALENT.get(record.id, ()))]
    assert made >= 1
    assert len(unexplained) <= 0.05 * made, "\n\n".join(unexplained)


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.id)
def test_at_least_five_common_mistakes(record):
    assert len(record.mistakes) >= 5
