"""Wrong solutions from right ones: what a benchmark's tests must reject before its scores count.

Mutation of Python code, each mutant with one change that no equivalent program can hide behind: what is returned is
another value of another type, nothing is done, or an error is raised.
"""

import ast
from collections.abc import Sequence


class _Returned(ast.NodeTransformer):
    """Every function of the top level returns something else."""

    def __init__(self, value: str) -> None:
        self._value = value

    def visit_Return(self, node: ast.Return) -> ast.Return:
        """Another value."""
        return ast.Return(ast.parse(self._value, mode="eval").body)


def python_mutants(source: str) -> Sequence[str]:
    """Up to three mutants of a text that ends with functions; none of a text that is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ()
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    if not functions:
        return ()
    changed = [ast.unparse(ast.fix_missing_locations(_Returned(value).visit(ast.parse(source)))) for value in _OTHERS]
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = ast.parse("raise ValueError('a mutant')").body
    return [text for text in (*changed, ast.unparse(tree)) if text != ast.unparse(ast.parse(source))]


_OTHERS = ("None", "('a mutant', ...)")
