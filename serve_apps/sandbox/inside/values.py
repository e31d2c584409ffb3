"""Values between the judge, which holds the tests, and the program, which holds the tested code.

They are two processes of two sandboxes. A value travels as a flat table of JSON nodes, one for each container, so that
depth, cycles and identity survive: ``{"nodes": [...], "value": item}``. An item is a JSON scalar, ``[n]`` for node n,
or a list with a tag. Data travel by value, with the exact types of the standard library and subclasses as their base;
any other object stays where it is and travels as a number (`peer.py`). What comes from the program is checked: it can
be wrong data, and never code. Runs inside the sandbox, on the standard library alone.
"""

import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib import import_module
from itertools import chain
from operator import is_not
from typing import Any

_PLAIN = {type(None), bool, str, int, float}
_LARGE = 1 << 62  # integers beyond it travel as text
_MUTABLE = (list, dict, set, bytearray, deque)
_ARRAY_KINDS = "biufcSUmM?"


class MalformedError(ValueError):
    """What came over the wire is no value."""


class Packer:
    """Packs one message. `refer` gives the item of an object that stays here, or raises `TypeError`.

    `known` maps the ids of containers that the other side has sent to their node there: they go back as themselves.
    `apart` are classes whose instances stay although they are containers of data too. `sent` holds the mutable
    containers of this message, by node.
    """

    def __init__(self, refer: Callable[[Any], list[Any]], known: dict[int, int], apart: tuple[type, ...] = ()) -> None:
        self.refer, self.known, self.apart = refer, known, apart
        self.nodes: list[Any] = []
        self.sent: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # ids stay what they are while these do
        self._waiting: list[tuple[int, Any]] = []

    def item(self, value: Any) -> Any:
        """The item of a value; what it contains is in `nodes`."""
        found = self._item(value)
        self._fill()
        return found

    def contents(self, value: Any) -> Any:
        """A node of a container's present contents, whether or not it is known."""
        found = self._contents(value)
        self._fill()
        return found

    def forget(self) -> None:
        """Begin again: what was packed so far will not be sent."""
        for made in (self.nodes, self.sent, self._numbers, self._alive, self._waiting):
            made.clear()

    def _fill(self) -> None:
        while self._waiting:
            number, container = self._waiting.pop()
            self.nodes[number] = self._contents(container)

    def _item(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value if kind is not int or -_LARGE < value < _LARGE else ["i", hex(value)]
        if id(value) in self.known:
            return ["a", self.known[id(value)]]
        if id(value) in self._numbers:
            return [self._numbers[id(value)]]
        scalar = _scalar(kind)
        if scalar is not None:
            return scalar(value)
        if self.apart and issubclass(kind, self.apart):
            return self.refer(value)
        if issubclass(kind, _MUTABLE):
            return self._later(value)
        if kind in (tuple, frozenset) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
            return self._deep(value)
        return self._other(value, kind)

    def _other(self, value: Any, kind: type) -> Any:
        array = _packed_array(value, kind)
        if array is not None:
            return array
        try:
            return self.refer(value)
        except TypeError:
            for base in (str, bytes, int, float, complex):
                if issubclass(kind, base):
                    return self._item(as_base(value, base))
            if issubclass(kind, (tuple, frozenset)):
                return self._deep(value)
            raise

    def _later(self, value: Any) -> list[int]:
        number = self._new(value)
        self.sent[number] = value
        self._waiting.append((number, value))
        return [number]

    def _new(self, value: Any) -> int:
        self.nodes.append(None)
        self._numbers[id(value)] = len(self.nodes) - 1
        self._alive.append(value)
        return len(self.nodes) - 1

    def _deep(self, value: Any) -> list[int]:
        """Tuples and frozen sets: what they contain comes first, for they are made whole."""
        stack = [value]
        while stack:
            top = stack[-1]
            inner = [x for x in _elements(top) if _frozen(x) and id(x) not in self._numbers and id(x) not in self.known]
            if inner:
                stack += inner
                continue
            stack.pop()
            if id(top) in self._numbers:
                continue
            items = self._items(_elements(top))
            node: list[Any] = ["z" if isinstance(top, frozenset) else "t", items]
            if hasattr(type(top), "_fields"):
                node = ["n", items, type(top).__name__, list(type(top)._fields)]
            number = self._new(top)
            self.nodes[number] = node
        return [self._numbers[id(value)]]

    def _items(self, values: Iterable[Any]) -> list[Any]:
        values = list(values)
        kinds = set(map(type, values))
        if kinds <= _PLAIN and (int not in kinds or is_plain(values)):
            return values
        return [self._item(value) for value in values]

    def _contents(self, value: Any) -> list[Any]:
        kind = type(value)
        if issubclass(kind, dict):
            flat = self._items(chain.from_iterable(dict.items(value)))
            if kind is defaultdict:
                return ["D", flat, self._item(value.default_factory)]
            return [{OrderedDict: "o", Counter: "C"}.get(kind, "d"), flat]
        if issubclass(kind, bytearray):
            return ["y", bytes(value).decode("latin-1")]
        if issubclass(kind, deque):
            return ["q", self._items(deque.__iter__(value)), value.maxlen]
        return ["s" if issubclass(kind, set) else "l", self._items(_elements(value))]


def _scalar(kind: type) -> Callable[[Any], list[Any]] | None:
    """How a value of exactly this class is packed: the library's own, not one that says so of itself."""
    found = _SCALARS.get((kind.__module__, kind.__qualname__))
    module = sys.modules.get(kind.__module__) if found else None
    if module is None or kind.__module__ == "builtins":
        return found
    return found if getattr(module, kind.__qualname__, None) is kind else None


def is_plain(values: Sequence[Any]) -> bool:
    """Whether all of these are JSON scalars as they are."""
    return all(type(value) in _PLAIN and (type(value) is not int or -_LARGE < value < _LARGE) for value in values)


def _elements(value: Any) -> list[Any]:
    """The elements of a container, whatever its class makes of iteration."""
    base: Any
    for base in (list, tuple, set, frozenset):
        if isinstance(value, base):
            return list(base.__iter__(value))
    return list(value)


def _frozen(value: Any) -> bool:
    kind = type(value)
    return kind in (tuple, frozenset) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))


def as_base(value: Any, base: Any) -> Any:
    """The value of a subclass as its base has it, whatever the subclass says of itself."""
    if base is str:
        return str.__str__(value)
    if base is bytes:
        return bytes.__add__(value, b"")
    return base.__pos__(value)


def _packed_array(value: Any, kind: type) -> list[Any] | None:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if kind is numpy.ndarray and value.dtype.kind in _ARRAY_KINDS:
        return ["N", value.dtype.str, list(value.shape), value.tobytes().decode("latin-1")]
    if issubclass(kind, numpy.generic) and value.dtype.kind in _ARRAY_KINDS:
        return ["N", value.dtype.str, None, value.tobytes().decode("latin-1")]
    return None


# by module and name: a module that no program has loaded has no values
_SCALARS: dict[tuple[str, str], Callable[[Any], list[Any]]] = {
    ("builtins", "complex"): lambda v: ["c", v.real, v.imag],
    ("builtins", "bytes"): lambda v: ["b", v.decode("latin-1")],
    ("builtins", "range"): lambda v: ["R", *map(hex, (v.start, v.stop, v.step))],
    ("decimal", "Decimal"): lambda v: ["v", "Decimal", str(v)],
    ("fractions", "Fraction"): lambda v: ["v", "Fraction", hex(v.numerator), hex(v.denominator)],
    ("datetime", "date"): lambda v: ["v", "date", v.isoformat()],
    ("datetime", "time"): lambda v: ["v", "time", v.isoformat()],
    ("datetime", "datetime"): lambda v: ["v", "datetime", v.isoformat()],
    ("datetime", "timedelta"): lambda v: ["v", "timedelta", v.days, v.seconds, v.microseconds],
    ("builtins", "ellipsis"): lambda v: ["v", "Ellipsis"],
    ("builtins", "NotImplementedType"): lambda v: ["v", "NotImplemented"],
}


def _imported(module: str, name: str, method: str | None = None) -> Callable[..., Any]:
    def made(*parts: Any) -> Any:
        kind = getattr(import_module(module), name)
        return (getattr(kind, method) if method else kind)(*parts)

    return made


_VALUES: dict[str, Callable[..., Any]] = {
    "Decimal": _imported("decimal", "Decimal"),
    "Fraction": lambda above, below: _imported("fractions", "Fraction")(int(above, 16), int(below, 16)),
    "date": _imported("datetime", "date", "fromisoformat"),
    "time": _imported("datetime", "time", "fromisoformat"),
    "datetime": _imported("datetime", "datetime", "fromisoformat"),
    "timedelta": _imported("datetime", "timedelta"),
    "Ellipsis": lambda: ...,
    "NotImplemented": lambda: NotImplemented,
}


class Unpacker:
    """Makes the values of one message.

    `resolve` gives the object of an item that is neither data nor a node; `arguments` are the containers that this side
    has sent and that come back as themselves. `made` holds the containers, by node.
    """

    def __init__(
        self, nodes: list[Any], resolve: Callable[[list[Any]], Any], arguments: dict[int, Any] | None = None
    ) -> None:
        self.nodes, self.resolve, self.arguments = nodes, resolve, arguments or {}
        self.made: dict[int, Any] = {}
        # empty mutable containers first, then the frozen ones in their order, then the contents
        mutable = {"l": list, "d": dict, "s": set, "o": OrderedDict, "C": Counter, "D": defaultdict}
        for number, node in enumerate(self.nodes):
            if not isinstance(node, list) or not node:
                raise MalformedError("a node is no list")
            if node[0] in mutable:
                self.made[number] = mutable[node[0]]()
            elif node[0] == "q":
                self.made[number] = deque(maxlen=node[2])
            elif node[0] == "y":
                self.made[number] = bytearray(node[1].encode("latin-1"))
        mutable_numbers = list(self.made)
        for number, node in enumerate(self.nodes):
            if number not in self.made:
                self.made[number] = self._frozen(node)
        for number in mutable_numbers:
            self.fill(self.made[number], self.nodes[number])

    def _frozen(self, node: list[Any]) -> Any:
        match node:
            case ["t", list(items)]:
                return tuple(map(self.item, items))
            case ["z", list(items)]:
                return frozenset(map(self.item, items))
            case ["n", list(items), str(name), list(names)]:
                return _named(name, tuple(map(str, names)))._make(map(self.item, items))
        raise MalformedError("a node is of no known kind")

    def fill(self, container: Any, node: list[Any]) -> None:
        """Give a container the contents of a node, in place."""
        kind, values = node[0], node[1]
        if kind == "y":
            container[:] = values.encode("latin-1")
            return
        items = [value if type(value) in _PLAIN else self.item(value) for value in values]
        if kind == "l":
            container[:] = items
            return
        container.clear()
        if kind == "D":
            container.default_factory = self.item(node[2])
        if kind == "q":
            container.extend(items)
        elif kind == "s":
            container.update(items)
        else:
            container.update(dict(zip(items[::2], items[1::2], strict=True)))

    def item(self, item: Any) -> Any:
        """The value of an item; `MalformedError` for anything else."""
        if type(item) in _PLAIN:
            return item
        match item:
            case [int(number)] if number in self.made:
                return self.made[number]
            case ["a", int(number)] if number in self.arguments:
                return self.arguments[number]
            case ["i", str(text)]:
                return int(text, 16)
            case ["c", float(real), float(imaginary)]:
                return complex(real, imaginary)
            case ["b", str(text)]:
                return text.encode("latin-1")
            case ["R", *bounds]:
                return range(*(int(bound, 16) for bound in bounds))
            case ["v", str(name), *parts] if name in _VALUES:
                return _VALUES[name](*parts)
            case ["N", str(kind), shape, str(text)]:
                return _array(kind, shape, text.encode("latin-1"))
            case list():
                return self.resolve(item)
        raise MalformedError("an item is of no known kind")


@lru_cache(maxsize=256)
def _named(name: str, names: tuple[str, ...]) -> Any:
    return namedtuple(name, names)


def _array(kind: str, shape: list[int] | None, data: bytes) -> Any:
    try:
        import numpy
    except ImportError:
        raise MalformedError("an array came, and there is no numpy here") from None
    dtype = numpy.dtype(kind)
    if dtype.kind not in _ARRAY_KINDS:
        raise MalformedError("an array of objects")
    array = numpy.frombuffer(data, dtype)
    return array[0] if shape is None else array.reshape(shape).copy()


def snapshot(value: Any) -> Any:
    """What `changed` compares a container with: its elements themselves, in order."""
    if isinstance(value, dict):
        return list(chain.from_iterable(value.items()))
    return bytes(value) if isinstance(value, bytearray) else list(value)


def changed(value: Any, before: Any) -> bool:
    """Whether a container holds other elements than at its snapshot (not whether they have changed themselves)."""
    now = snapshot(value)
    if isinstance(value, bytearray):
        return bool(now != before)
    return len(now) != len(before) or any(map(is_not, now, before))
