"""Calls between the judge and the program, both ways, with objects that stay on their side.

What is no data is a `Remote` on the other side: its attributes, calls and special methods are asked for over the wire
(as RPyC's netrefs). Containers that a call is given go by value and come back changed when the call has changed them.

What a program must not be able to do is to say that it is right. So on the judge's side
- an object of the program is equal to no data, and shows no operator what a test expects, unless the tests name its
  class (then its operators are what is tested);
- the program may use those objects of the tests alone that it was given: call them, ask for public attributes;
- exceptions come by name, as the nearest class that the judge itself has.

Runs inside the sandbox, on the standard library alone.
"""

import builtins
import importlib
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from values import MalformedError, Packer, Unpacker, as_base, changed, is_plain, snapshot
from wire import Wire, shown


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# special methods that are asked for whatever the object is; those that show it a value of the test only where allowed
ASKED = _words(
    "__call__ __len__ __length_hint__ __iter__ __next__ __getitem__ __setitem__ __delitem__ __reversed__ __bool__"
    " __enter__ __exit__ __hash__ __repr__ __str__ __int__ __float__ __complex__ __index__ __abs__ __neg__ __pos__"
    " __invert__ __round__ __trunc__ __floor__ __ceil__ __aiter__ __anext__ __await__ __aenter__ __aexit__"
    " __instancecheck__ __subclasscheck__ __bytes__ __format__ __fspath__ __copy__ __deepcopy__"
)
OPERATORS = _words(
    "__eq__ __ne__ __lt__ __le__ __gt__ __ge__ __contains__ __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__"
    " __mul__ __rmul__ __imul__ __truediv__ __rtruediv__ __floordiv__ __rfloordiv__ __mod__ __rmod__ __divmod__"
    " __pow__ __rpow__ __matmul__ __rmatmul__ __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __lshift__ __rshift__"
    " __rlshift__ __rrshift__ __iand__ __ior__ __ixor__"
)
# attributes with underscores that tools of the standard library ask for
_DESCRIPTIONS = _words(
    "__name__ __qualname__ __doc__ __annotations__ __defaults__ __kwdefaults__ __dict__ __code__ __members__"
    " __dataclass_fields__ __slots__ __wrapped__"
)
_NEXT = ("__next__", "__anext__", "send", "throw", "await", "asend", "athrow")  # whose StopIteration is an answer
_BUILTIN_CLASSES = {name: kind for name, kind in vars(builtins).items() if isinstance(kind, type)}
_SHARED_CLASSES = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, range, set, str, tuple)
_ERROR_FACTS = _words(
    "errno strerror filename filename2 name path code value returncode cmd output stdout stderr msg lineno offset text"
    " doc pos colno obj key start end reason encoding object"
)
LONGEST_NAME = 200
# whose attributes lead to frames, and so to the tests' own names; of those that go on, going on is allowed
_RESUMED = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
_RESUMING = ("send", "throw", "close", "asend", "athrow", "aclose")
_INTERPRETERS_OWN = (
    *_RESUMED, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.MethodType, types.CodeType,
    types.FrameType, types.TracebackType,
)  # fmt: skip


class ProgramError(Exception):
    """The tested code raised something that has no counterpart in the judge, or is gone."""


class Remote:
    """An object of the other side."""

    __slots__ = ("__weakref__", "_number", "_peer", "_plain")

    def __init__(self, peer: "Peer", number: int, plain: Any) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_plain", plain)  # what it is as data: of a member of an IntEnum, the number

    def __getattr__(self, name: str) -> Any:
        if name == "__signature__":
            return _signature(self._peer.ask("signature", self))
        if name.startswith("__") and name not in _DESCRIPTIONS:
            raise AttributeError(name)
        return self._peer.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._peer.ask("delattr", self, name)

    def __eq__(self, other: object) -> Any:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def _asked(name: str) -> Callable[..., Any]:
    def method(self: Remote, *positional: Any, **named: Any) -> Any:
        return self._peer.ask(name, self, *positional, **named)

    method.__name__ = name
    return method


def _operator(name: str, open_to_all: bool) -> Callable[..., Any]:
    def method(self: Remote, other: Any, *more: Any) -> Any:
        if not open_to_all and not isinstance(other, Remote):
            return NotImplemented
        return self._peer.ask(name, self, other, *more)

    method.__name__ = name
    return method


def _run_coroutine(self: Remote, value: Any = None) -> Any:
    raise StopIteration(self._peer.ask("await", self))


def _awaited(self: Remote) -> Any:
    yield from ()  # an await is an iterator
    return self._peer.ask("await", self)


class Peer:
    """One side. `guarded` is the judge's; `names` are those that its tests take from the program's `namespace`."""

    def __init__(
        self, wire: Wire, *, guarded: bool, names: Iterable[str] = (), namespace: dict[str, Any] | None = None
    ) -> None:
        self.wire, self.guarded, self.names = wire, guarded, frozenset(names)
        self.namespace = namespace if namespace is not None else {}
        self._held: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._remotes: dict[int, Any] = {}
        self._named_classes: tuple[type, ...] = ()
        self._lock = threading.RLock()
        self._depth = 0
        # tests may put others in their place, and the program is to use those
        self._real = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}

    # ---- asking the other side

    def ask(self, operation: str, target: Any, *positional: Any, **named: Any) -> Any:
        """What the other side answers; its exceptions are raised here.

        Raises:
            ProgramError: there is no answer, or none that can be understood.
            TypeError: a value cannot be handed over.
            RuntimeError: a thread of the program asks while no test waits for an answer.
        """
        with self._lock:
            if not self.guarded and not self._depth:
                raise RuntimeError("an object of the tests was used while no test was waiting")
            if operation == "__call__" and not named and is_plain(positional) and self._streams() is None:
                number = object.__getattribute__(target, "_number")
                return self._exchange(["call", number, positional], self._packer({}), operation)
            packer = self._packer({})
            try:
                request = ["ask", operation, packer.item([target, list(positional), named]), packer.nodes]
            except TypeError as error:
                raise TypeError(f"a value cannot be handed over: {error}") from None
            return self._exchange([*request, self._streams()], packer, operation)

    def _streams(self) -> Any:
        """The standard streams that the tests have put in the place of the real ones."""
        if not self.guarded:
            return None
        packer = self._packer({})
        replaced = {}
        for name, real in self._real.items():
            if getattr(sys, name) is not real:
                replaced[name] = packer.item(getattr(sys, name))
        return replaced or None

    def _exchange(self, request: list[Any], packer: Packer, operation: str) -> Any:
        try:
            self.wire.send(request)
        except OSError:
            raise ProgramError("the program ended before it was called") from None
        except (ValueError, RecursionError) as error:
            raise ProgramError(f"a value cannot be handed over: {error}") from None
        while True:
            answer = self._receive()
            kind = answer[0] if isinstance(answer, list) and answer else None
            if kind == "value" and len(answer) == 2 and is_plain(answer[1:]):
                return answer[1]
            if kind in ("ask", "call"):
                self._serve_one(answer)
                continue
            return self._result(answer, packer, operation)

    def _receive(self) -> Any:
        try:
            return self.wire.receive()
        except (EOFError, ValueError, RecursionError, OSError) as error:
            raise ProgramError(str(error)) from None

    def _result(self, answer: Any, packer: Packer, operation: str) -> Any:
        try:
            status, item, nodes, changes = answer
            unpacker = Unpacker(nodes, self._resolve, packer.sent)
            for number, node in changes:
                unpacker.fill(packer.sent[number], node)
            if status == "returned":
                return unpacker.item(item)
            error = self._error(unpacker, item, operation)
        except ProgramError:
            raise
        except Exception as problem:  # noqa: BLE001 - whatever a hostile message causes is its sender's fault
            raise ProgramError(f"the program sent something that is no value: {problem}"[:300]) from None
        raise error

    # ---- being asked

    def serve(self) -> None:
        """Answer until the other side is gone."""
        while True:
            try:
                request = self.wire.receive()
            except EOFError:
                return
            self._serve_one(request)

    def _serve_one(self, request: list[Any]) -> None:
        try:
            if request[0] == "call":  # the short way, for what is nearly all
                _, number, positional = request
                operation, target, named, streams = "__call__", self._held[number], {}, None
                unpacker = Unpacker([], self._resolve)
            else:
                _, operation, item, nodes, streams = request
                unpacker = Unpacker(nodes, self._resolve)
                target, positional, named = unpacker.item(item)
        except Exception as problem:  # noqa: BLE001 - as above
            raise ProgramError(f"the program sent something that is no value: {problem}"[:300]) from None
        before = {number: snapshot(made) for number, made in unpacker.made.items() if _mutable(made)}
        known = {id(unpacker.made[number]): number for number in before}
        packer = self._packer(known)
        self._depth += 1
        try:
            try:
                with self._replaced(streams, unpacker):
                    result = self._perform(operation, target, positional, named)
                if not before and is_plain((result,)):
                    self.wire.send(["value", result])
                    return
                answer = ["returned", packer.item(result)]
            except BaseException as error:  # noqa: BLE001 - it is the caller who decides what it means
                packer = self._packer(known)
                answer = ["raised", self._packed_error(packer, error)]
        finally:
            self._depth -= 1
        changes = [
            [number, packer.contents(unpacker.made[number])]
            for number, was in before.items()
            if changed(unpacker.made[number], was)
        ]
        self.wire.send([*answer, packer.nodes, changes])

    @contextmanager
    def _replaced(self, streams: Any, unpacker: Unpacker) -> Iterator[None]:
        if self.guarded or not streams:
            yield
            return
        kept = {name: getattr(sys, name) for name in streams}
        try:
            for name, item in streams.items():
                setattr(sys, name, unpacker.item(item))
            yield
        finally:
            for name, stream in kept.items():
                setattr(sys, name, stream)

    def _perform(self, operation: str, target: Any, positional: list[Any], named: dict[str, Any]) -> Any:
        if self.guarded:
            self._check(operation, target, positional)
        match operation:
            case "names":
                return self._take_names(positional[0])
            case "__call__":
                return target(*positional, **named)
            case "getattr":
                found = getattr(target, positional[0])
                return dict(found) if isinstance(found, types.MappingProxyType) else found
            case "setattr":
                return setattr(target, *positional)
            case "delattr":
                return delattr(target, *positional)
            case "signature":
                return _described(target)
            case "await":
                return _waited_for(target)
        method = getattr(type(target), operation, None)
        if method is None or operation not in ASKED | OPERATORS:
            raise TypeError(f"{type(target).__name__} has no {operation}")
        return method(target, *positional, **named)

    def _check(self, operation: str, target: Any, positional: list[Any]) -> None:
        """What the program may do to an object of the tests."""
        if operation in ("__call__", *ASKED, *OPERATORS) and not isinstance(target, types.ModuleType):
            return
        name = positional[0] if positional else None
        if operation == "getattr" and isinstance(target, _RESUMED) and name in _RESUMING:
            return
        plain = not isinstance(target, _INTERPRETERS_OWN)
        public = bool(positional) and isinstance(positional[0], str) and not positional[0].startswith("_")
        if operation == "getattr" and plain and public:
            return
        if operation == "setattr" and plain and public and not isinstance(target, type):
            return
        raise PermissionError(f"the program may not {operation} of an object of the tests")

    def _take_names(self, names: list[str]) -> dict[str, Any]:
        found = {name: self.namespace[name] for name in names if name in self.namespace}
        self._named_classes = tuple(value for value in found.values() if isinstance(value, type))
        return found

    # ---- objects that stay on their side

    def _packer(self, known: dict[int, int]) -> Packer:
        return Packer(self._refer, known, self._named_classes)

    def _refer(self, value: Any) -> list[Any]:
        kind = type(value)
        if issubclass(kind, Remote):
            return ["m", object.__getattribute__(value, "_number")]
        if isinstance(value, type):
            if value in _SHARED_CLASSES or _BUILTIN_CLASSES.get(value.__name__) is value:
                return ["g", "builtins", value.__name__]
            if "_remote_number" in value.__dict__:
                return ["m", value.__dict__["_remote_number"]]
        if self.guarded and (place := _importable(value)) is not None:
            return ["g", *place]
        named = self._named_classes and issubclass(kind, self._named_classes)
        if not named and issubclass(kind, (str, bytes, int, float, complex, tuple, frozenset)) and not _is_enum(kind):
            raise TypeError("it travels as its plain base")
        return ["r", self._hold(value), self._description(value, kind)]

    def _hold(self, value: Any) -> int:
        if id(value) not in self._numbers:
            number = len(self._held)
            self._held[number] = value  # kept: its id stays its own
            self._numbers[id(value)] = number
        return self._numbers[id(value)]

    def _description(self, value: Any, kind: type) -> list[Any]:
        chain = []
        if isinstance(value, type) and issubclass(value, BaseException):
            for base in value.__mro__:
                known = _BUILTIN_CLASSES.get(base.__name__) is base
                chain.append(base.__name__ if known else [self._hold(base), base.__name__])
        plain = next((base for base in (int, str) if issubclass(kind, base)), None)
        return [kind.__name__, methods_of(kind), chain, None if plain is None else as_base(value, plain)]

    def _resolve(self, item: list[Any]) -> Any:
        match item:
            case ["m", int(number)] if number in self._held:
                return self._held[number]
            case ["r", int(number), [str(name), list(methods), list(chain), None | int() | str() as plain]]:
                if number not in self._remotes:
                    made = self._error_class(chain) if chain else self._remote(number, name, methods, plain)
                    self._remotes[number] = made
                return self._remotes[number]
            case ["g", str(module), str(name)]:
                return self._global(module, name)
        raise MalformedError("an item is of no known kind")

    def _global(self, module: str, name: str) -> Any:
        if self.guarded:
            if module == "builtins" and name in _BUILTIN_CLASSES:
                return _BUILTIN_CLASSES[name]
            raise MalformedError("a class that the judge does not share")
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def _remote(self, number: int, name: str, methods: list[str], plain: Any) -> Remote:
        # for the judge, operators are the program's own only in classes that the tests name
        own = not self.guarded or (name in self.names and name[:1].isupper())
        return remote_class(name[:LONGEST_NAME], frozenset(methods), own)(self, number, plain)

    # ---- exceptions

    def _error_class(self, chain: list[Any]) -> type:
        """A class of exceptions like one of the other side, below the nearest class that both sides have."""
        base: type = Exception
        for link in reversed(chain):
            if isinstance(link, str):
                known = _BUILTIN_CLASSES.get(link)
                if known is not None and issubclass(known, Exception):
                    base = known if issubclass(known, base) else base
            else:
                number, name = int(link[0]), str(link[1])[:LONGEST_NAME]
                if number not in self._remotes:
                    self._remotes[number] = type(name, (base,), {"_remote_number": number, "__str__": _text_of})
                base = self._remotes[number]
        return base

    def _packed_error(self, packer: Packer, error: BaseException) -> Any:
        origin = getattr(error, "_origin", None)
        if isinstance(origin, int):
            return packer.item({"origin": origin})
        if self.guarded:
            object_number: int | None = self._hold(error)
        else:
            object_number = None
        facts = {
            name: getattr(error, name) for name in sorted({*_ERROR_FACTS, *vars(error)}) if _plain_fact(error, name)
        }
        told = {"kind": type(error), "text": shown(error), "number": object_number}
        try:
            return packer.item({**told, "says": str(error), "args": error.args, "facts": facts})
        except BaseException:  # noqa: BLE001 - arguments that cannot travel: the text is what there is
            packer.forget()
            return packer.item({**told, "says": shown(error), "args": (), "facts": {}})

    def _error(self, unpacker: Unpacker, item: Any, operation: str) -> BaseException:
        told = unpacker.item(item)
        if "origin" in told:
            found = self._held[told["origin"]]
            if isinstance(found, BaseException):
                return found
        kind = told["kind"]
        allowed = isinstance(kind, type) and issubclass(kind, Exception)
        stops = allowed and issubclass(kind, (StopIteration, StopAsyncIteration))
        if not allowed or (stops and operation not in _NEXT):
            return ProgramError(str(told["text"]))
        error = _made_error(kind, told)
        error._from_program = self.guarded  # type: ignore[attr-defined]
        if told.get("number") is not None:
            error._origin = told["number"]  # type: ignore[attr-defined]
        return error


@lru_cache(maxsize=256)
def methods_of(kind: type) -> list[str]:
    """The special methods of a class that the other side may ask for."""
    return sorted(name for name in ASKED | OPERATORS if getattr(kind, name, None) is not None)


@lru_cache(maxsize=256)
def remote_class(name: str, methods: frozenset[str], own: bool) -> type[Remote]:
    """A class whose objects have these special methods and no others, as what asks for them by their class expects."""
    wanted = methods & (ASKED | OPERATORS)
    body: dict[str, Any] = {"__slots__": (), "__doc__": property(_documentation)}
    for method in wanted - {"__eq__", "__ne__", "__hash__", "__contains__", "__await__"}:
        body[method] = _operator(method, own) if method in OPERATORS else _asked(method)
    body["__eq__"] = _equality(own)
    if "__hash__" in wanted:
        body["__hash__"] = _asked("__hash__")
    if own and "__contains__" in wanted:
        body["__contains__"] = _asked("__contains__")
    if "__await__" in wanted:
        body.update(__await__=_awaited, send=_run_coroutine, throw=_asked_by_name("throw"))
        body["close"] = _asked_by_name("close")
    return type(name if name.isidentifier() else "Remote", (Remote,), body)


def _equality(own: bool) -> Callable[..., Any]:
    def equal(self: Remote, other: object) -> Any:
        if self is other:
            return True
        if own or isinstance(other, Remote):
            return self._peer.ask("__eq__", self, other)
        plain = object.__getattribute__(self, "_plain")
        return plain is not None and plain == other

    return equal


def _documentation(self: Remote) -> Any:
    return self._peer.ask("getattr", self, "__doc__")


def _asked_by_name(name: str) -> Callable[..., Any]:
    def method(self: Remote, *positional: Any) -> Any:
        return self._peer.ask("getattr", self, name)(*positional)

    return method


def _text_of(self: BaseException) -> str:
    says = self.__dict__.get("_says")
    return says if isinstance(says, str) else Exception.__str__(self)


def _made_error(kind: type[Exception], told: dict[str, Any]) -> Exception:
    args = told["args"] if isinstance(told["args"], tuple) else ()
    try:
        error = kind(*args)
    except Exception:  # noqa: BLE001 - a class that wants other arguments
        error = kind.__new__(kind)
        error.args = args
    for name, value in told["facts"].items():
        try:
            setattr(error, name, value)
        except (AttributeError, TypeError):
            continue
    if "_remote_number" in vars(kind):
        error.__dict__["_says"] = told["says"]
    return error


def _plain_fact(error: BaseException, name: str) -> bool:
    if name.startswith("_"):
        return False
    value = getattr(error, name, None)
    return value is not None and not callable(value)


def _mutable(value: Any) -> bool:
    return not isinstance(value, (tuple, frozenset))


def _is_enum(kind: type) -> bool:
    enum = sys.modules.get("enum")
    return enum is not None and issubclass(kind, enum.Enum)


def _importable(value: Any) -> tuple[str, str] | None:
    """Module and name of a function or class that the other side can import for itself."""
    if not isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return None
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not isinstance(module, str) or module == "__main__" or module not in sys.modules or "<" in name:
        return None
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is value else None


def _signature(parameters: list[Any]) -> Any:
    import inspect  # seldom asked for, and large: what is loaded is copied with every program

    kinds = {kind.value: kind for kind in inspect._ParameterKind}
    return inspect.Signature(
        [
            inspect.Parameter(name, kinds[kind], default=default if has else inspect.Parameter.empty)
            for name, kind, has, default in parameters
        ],
        __validate_parameters__=False,
    )


def _described(function: Any) -> list[Any]:
    """Name, kind, whether there is a default, and the default of each parameter."""
    import inspect

    told = []
    for parameter in inspect.signature(function).parameters.values():
        has = parameter.default is not parameter.empty
        told.append([parameter.name, parameter.kind.value, has, parameter.default if has else None])
    return told


def _waited_for(target: Any) -> Any:
    import asyncio

    async def whole() -> Any:
        return await target

    return asyncio.run(whole())


# what nearly all tests are about; made here, once, before any program is forked
remote_class("function", frozenset(methods_of(types.FunctionType)), False)
