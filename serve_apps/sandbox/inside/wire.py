"""Messages between the judge and the program: four bytes of length, then JSON, over a stream socket."""

import json
import socket
from typing import Any

MAX_MESSAGE_BYTES = 256 << 20


class Wire:
    """One end of it."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._read = bytearray()  # what has come and was not asked for yet

    def send(self, message: Any) -> None:
        """Send one message; `OSError` when the other side is gone."""
        body = json.dumps(message).encode()
        self.stream.sendall(len(body).to_bytes(4, "little") + body)

    def receive(self) -> Any:
        """The next message; `EOFError` when the other side is gone, `ValueError` when it sent nonsense."""
        size = int.from_bytes(self._exactly(4), "little")
        if size > MAX_MESSAGE_BYTES:
            raise ValueError("the program sent a message that is too long")
        return json.loads(self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            try:
                part = self.stream.recv(max(1 << 16, size - len(self._read)))
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError("the program ended before it answered")
            self._read += part
        found = bytes(self._read[:size])
        del self._read[:size]
        return found


def shown(error: BaseException) -> str:
    """An error in one line of at most 500 characters."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - an exception whose own text fails
        text = type(error).__name__
    return text[:500]
