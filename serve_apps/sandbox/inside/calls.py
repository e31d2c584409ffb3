"""Calls between the judge, which holds the tests, and the program, which holds the tested code.

They are two processes of two sandboxes with one socket between them. Values travel as tagged JSON: plain data only, so
that the program can answer a call wrongly but can run nothing in the judge and cannot compare as equal to everything.
Runs inside the sandbox, on the standard library alone.
"""

import builtins
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_MESSAGE_BYTES = 64 << 20


class ProgramError(Exception):
    """The tested code raised something that is no built-in exception, or is gone."""


@dataclass
class Remote:
    """A value of the program that is no plain data. It can be passed back; it equals itself alone."""

    number: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Objects:
    """The program's own values that the judge holds by number."""

    held: list[Any] = field(default_factory=list)

    def hold(self, value: Any) -> int:
        """The number under which the judge may pass the value back."""
        for number, known in enumerate(self.held):
            if known is value:
                return number
        self.held.append(value)
        return len(self.held) - 1


def pack(value: Any, objects: Objects | None = None) -> Any:
    """Plain data as JSON with tags; subclasses as their plain base, other values by number (in the program only).

    Raises:
        TypeError: a value is of no kind that can travel.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return ["f", float.hex(value)]
    if isinstance(value, int):
        return ["i", hex(int(value))]
    if isinstance(value, complex):
        return ["c", float.hex(value.real), float.hex(value.imag)]
    if isinstance(value, (bytes, bytearray)):
        return ["b", bytes(value).hex()]
    for tag, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return [tag, [pack(item, objects) for item in value]]
    if isinstance(value, dict):
        return ["d", [[pack(key, objects), pack(item, objects)] for key, item in value.items()]]
    if isinstance(value, Remote):
        return ["r", value.number]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return pack(value.tolist(), objects)
    if objects is None:
        raise TypeError(f"a test passes a {type(value).__name__}, which cannot be sent to the program")
    return ["r", objects.hold(value)]


def unpack(value: Any, objects: Objects | None = None) -> Any:
    """The value of `pack`; raises `ValueError` for anything else."""
    if value is None or isinstance(value, (bool, str)):
        return value
    match value:
        case ["f", str(text)]:
            return float.fromhex(text)
        case ["i", str(text)]:
            return int(text, 16)
        case ["c", str(real), str(imaginary)]:
            return complex(float.fromhex(real), float.fromhex(imaginary))
        case ["b", str(text)]:
            return bytes.fromhex(text)
        case ["d", list(entries)]:
            return {unpack(key, objects): unpack(item, objects) for key, item in entries}
        case ["r", int(number)]:
            return Remote(number) if objects is None else objects.held[number]
        case [str(tag), list(items)] if tag in _SEQUENCES:
            return _SEQUENCES[tag](unpack(item, objects) for item in items)
    raise ValueError("the program sent something that is no value")


_SEQUENCES: dict[str, Any] = {"l": list, "t": tuple, "s": set, "z": frozenset}


@dataclass
class Wire:
    """Messages over a stream socket: four bytes of length, then JSON."""

    stream: socket.socket

    def send(self, message: Any) -> None:
        """Send one message."""
        body = json.dumps(message).encode()
        self.stream.sendall(len(body).to_bytes(4, "little") + body)

    def receive(self) -> Any:
        """The next message; `EOFError` when the other side is gone, `ValueError` when it sent nonsense."""
        size = int.from_bytes(self._exactly(4), "little")
        if size > MAX_MESSAGE_BYTES:
            raise ValueError("the program sent a message that is too long")
        return json.loads(self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self.stream.recv(min(size, 1 << 20))
            if not part:
                raise EOFError("the program ended before it answered")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


@dataclass
class AnsweringSide:
    """The program's side: answers calls of the functions in `namespace` until the judge is gone."""

    wire: Wire
    namespace: dict[str, Any]
    objects: Objects = field(default_factory=Objects)

    def serve(self) -> None:
        """Answer until the judge closes the socket."""
        self.wire.send(["ready"])
        while True:
            try:
                name, positional, named = self.wire.receive()
            except EOFError:
                return
            self.wire.send(self._answer(name, positional, named))

    def _answer(self, name: str, positional: Any, named: Any) -> list[Any]:
        try:
            function = self.namespace[name]
            result = function(*unpack(positional, self.objects), **unpack(named, self.objects))
            return ["returned", pack(result, self.objects)]
        except BaseException as error:  # noqa: BLE001 - it is the judge who decides what it means
            return ["raised", type(error).__name__, shown(error)]


@dataclass(frozen=True)
class CallingSide:
    """The judge's side: what `function` gives stands for a function of the program."""

    wire: Wire

    def wait_until_ready(self) -> None:
        """Wait until the program has run to its end; `ProgramError` when it failed."""
        match self._receive():
            case ["ready"]:
                return
            case ["failed", str(shown)]:
                raise ProgramError(shown)
        raise ProgramError("the program sent something that is no answer")

    def function(self, name: str) -> Callable[..., Any]:
        """A stand-in for the program's function of that name."""

        def call(*positional: Any, **named: Any) -> Any:
            try:
                self.wire.send([name, pack(positional), pack(named)])
            except OSError:
                raise ProgramError("the program ended before it was called") from None
            return self._result()

        call.__name__ = name
        return call

    def _result(self) -> Any:
        match self._receive():
            case ["returned", value]:
                try:
                    return unpack(value)
                except (ValueError, TypeError, OverflowError) as error:
                    raise ProgramError(f"the program sent something that is no value: {error}") from None
            case ["raised", str(kind), str(shown)]:
                found = getattr(builtins, kind, None)
                if isinstance(found, type) and issubclass(found, Exception):
                    raise _exception(found, shown)
                raise ProgramError(shown)
        raise ProgramError("the program sent something that is no answer")

    def _receive(self) -> Any:
        try:
            return self.wire.receive()
        except (EOFError, ValueError, RecursionError, OSError) as error:
            raise ProgramError(str(error)) from None


def _exception(kind: type[Exception], shown: str) -> Exception:
    try:
        return kind(shown)
    except TypeError:  # such as UnicodeDecodeError, which wants five arguments
        return ProgramError(shown)


def shown(error: BaseException) -> str:
    """An error in one line of at most 500 characters."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - an exception whose own text fails
        text = type(error).__name__
    return text[:500]
