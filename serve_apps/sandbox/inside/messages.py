"""Messages between a sandbox's owner and its zygote: small JSON with descriptors beside it. Used on both sides.

What programs are given, print and are tested with travels in files and pipes whose descriptors are passed on here. So
it is never in the zygote's memory, from which the next program is forked.
"""

import contextlib
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

LARGEST_MESSAGE = 1 << 16
MOST_DESCRIPTORS = 16


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a channel that keeps messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, message: Any, descriptors: Sequence[int] = ()) -> None:
    """Send a message; the receiver gets copies of the descriptors."""
    socket.send_fds(channel, [json.dumps(message).encode()], list(descriptors))


def receive(channel: socket.socket) -> tuple[Any, list[int]] | None:
    """The next message and its descriptors; None when the other end is gone."""
    try:
        body, descriptors, _, _ = socket.recv_fds(channel, LARGEST_MESSAGE, MOST_DESCRIPTORS)
    except ConnectionError:
        return None
    return (json.loads(body), list(descriptors)) if body else None


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors; one that is closed already is no error."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
