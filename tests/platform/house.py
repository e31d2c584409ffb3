"""The code read as a tree: modules, what they import, and what their functions say of themselves."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"starloom": ROOT / "platform" / "starloom"} | {
    name: ROOT / name for name in ("data_jobs", "train_jobs", "serve_apps")
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
_ARRAY = re.compile(r"\b(?:np\.ndarray|ndarray|Tensor)\b")
# [rows, hidden], or a type of numbers
_SHAPE = re.compile(r"\[[^\]]+\]|\b(?:u?int\d+|float\d+|fp32|bf16|bool|scalar)\b")


@dataclass(frozen=True)
class Module:
    """A module of the product."""

    name: str
    path: Path

    @property
    def room(self) -> str:
        """The package at the top."""
        return self.name.partition(".")[0]

    @property
    def chamber(self) -> str:
        """A flat file by itself, or the folder of the room that holds it."""
        return ".".join(self.name.split(".")[:2])

    @property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return _parsed(self.path)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def modules() -> Mapping[str, Module]:
    """Every module by name."""
    found = {}
    for room, folder in ROOMS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [room, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, path)
    return found


def imports(module: Module) -> Iterator[str]:
    """Names of the product's modules that a module imports, wherever in it the import stands."""
    known = modules()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield from (name for name in (below if below in known else node.module,) if name in known)


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(arrows):
        if node not in order:
            visit(node)
    return found


def is_entry(module: Module) -> bool:
    """Whether it is a step's module: it exports ``STEP``."""
    targets = [t for node in module.tree.body if isinstance(node, ast.Assign) for t in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "STEP" for target in targets)


@dataclass(frozen=True)
class Placed:
    """A function and where it is."""

    module: Module
    owner: str  # its class, or nothing
    node: Function

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.module.name}.{self.owner + '.' if self.owner else ''}{self.node.name}"

    @property
    def is_public(self) -> bool:
        """Whether others may call it."""
        return not (self.node.name.startswith("_") or self.owner.startswith("_"))

    @property
    def is_compiled(self) -> bool:
        """Whether numba compiles it."""
        return any("compiled" in ast.unparse(one) or "njit" in ast.unparse(one) for one in self.node.decorator_list)

    @property
    def docstring(self) -> str:
        """Its docstring, or nothing."""
        return ast.get_docstring(self.node) or ""

    @property
    def lines(self) -> int:
        """Lines of the body without its docstring."""
        body = self.node.body[1:] if self.docstring else self.node.body
        return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]

    def raised(self) -> set[str]:
        """Names of the classes that it raises itself."""
        return {name for node in _own(self.node) for name in _raised(node)}

    @property
    def has_arrays(self) -> bool:
        """Whether arrays or tensors go in or come out."""
        arguments = self.node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        notes = [one.annotation for one in every] + [self.node.returns]
        return any(_ARRAY.search(ast.unparse(note)) for note in notes if note is not None)

    @property
    def gives_shape(self) -> bool:
        """Whether its docstring says of what shape or type they are."""
        return bool(_SHAPE.search(self.docstring))


def functions() -> Iterator[Placed]:
    """Every function and method that is not inside another."""
    for module in modules().values():
        for node in module.tree.body:
            if isinstance(node, Function):
                yield Placed(module, "", node)
            elif isinstance(node, ast.ClassDef):
                yield from (Placed(module, node.name, inner) for inner in node.body if isinstance(inner, Function))


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What is in a function and not in one inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda | ast.ClassDef):
            yield child
            yield from _own(child)


def _raised(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        name = ast.unparse(node.exc.func).rpartition(".")[2]
        if name[:1].isupper():
            yield name
