"""Programs broken in one place: what someone has to mend, or what a test should catch. Knows Python's grammar; runs nothing."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Gt: (ast.GtE, ast.Lt),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_COUNTED: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.Mod: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Mod,),
}
_CALLED = {
    "sum": "max",
    "max": "min",
    "min": "max",
    "len": "sum",
    "sorted": "list",
    "list": "sorted",
    "set": "list",
    "abs": "len",
}
_METHODS = {"upper": "lower", "startswith": "endswith", "endswith": "startswith", "count": "find", "append": "add"}
Change = Callable[[], None]


def mutant(program: str, rng: random.Random) -> str | None:
    """A program with one change, as the grammar has it: another number, comparison, operation, call, method or name, a condition
    or a slice left out, branches exchanged, an import or the last mark gone. None where there is nothing to change.

    Its text is as `ast.unparse` writes it, but for the docstring and what stands before, which stay.
    """
    tree = ast.parse(program)
    changes = list(_changes(tree, rng))
    if rng.random() < 0.05:
        return program.rstrip()[:-1] + "\n" if program.rstrip().endswith((")", "]")) else None
    if not changes:
        return None
    rng.choice(changes)()
    function = tree.body[-1]
    if not isinstance(function, ast.FunctionDef) or ast.get_docstring(function) is None:
        return ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    first = ast.parse(program).body[-1]
    assert isinstance(first, ast.FunctionDef)
    kept = program.splitlines(keepends=True)[: first.body[0].end_lineno]
    body = ast.unparse(ast.fix_missing_locations(ast.Module(function.body[1:], [])))
    return "".join(kept) + "".join(f"    {line}".rstrip() + "\n" for line in body.splitlines())


def _changes(tree: ast.AST, rng: random.Random) -> Iterator[Change]:
    """All that could be changed, each as what changes it."""
    bound = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            yield _put(node, "value", node.value + rng.choice((-1, 1)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) == 1:
            yield _put(node, "value", rng.choice("abdeinorst"))
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARED:
            yield _put(node, "ops", [rng.choice(_COMPARED[type(node.ops[0])])(), *node.ops[1:]])
        elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _COUNTED:
            yield _put(node, "op", rng.choice(_COUNTED[type(node.op)])())
        elif isinstance(node, ast.BoolOp):
            yield _put(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
        elif isinstance(node, ast.IfExp):
            yield _exchange(node)
        elif isinstance(node, ast.comprehension) and node.ifs:
            yield _put(node, "ifs", [])
        elif isinstance(node, ast.Call):
            yield from _recalled(node)
        elif isinstance(node, ast.Slice) and node.step is None:
            yield _exchange_ends(node)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in ("x", "n", "w", "c", "letter"):
            yield _put(node, "id", rng.choice([name for name in (*bound, "y", "k") if name != node.id]))
        elif isinstance(node, ast.FunctionDef):
            lines = [i for i, line in enumerate(node.body) if isinstance(line, ast.Import | ast.ImportFrom)]
            if lines:
                yield _put(node, "body", [line for i, line in enumerate(node.body) if i != lines[0]])


def _recalled(node: ast.Call) -> Iterator[Change]:
    """Another function in a call's place, an argument less."""
    if isinstance(node.func, ast.Name) and node.func.id in _CALLED:
        yield _put(node, "func", ast.Name(_CALLED[node.func.id], ast.Load()))
    if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
        yield _put(node.func, "attr", _METHODS[node.func.attr])
    if node.keywords:
        yield _put(node, "keywords", node.keywords[:-1])


def _put(node: ast.AST, name: str, value: object) -> Change:
    return lambda: setattr(node, name, value)


def _exchange(node: ast.IfExp) -> Change:
    def change() -> None:
        node.body, node.orelse = node.orelse, node.body

    return change


def _exchange_ends(node: ast.Slice) -> Change:
    def change() -> None:
        node.lower, node.upper = node.upper, node.lower

    return change
