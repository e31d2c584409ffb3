"""A port to listen on, for programs that take a number and bind it later."""

import random
import socket
from pathlib import Path

from starloom.errors import RunError, UserError

LEAST, DEFAULT_MOST = 20_000, 32_768  # Ray's workers take ports from 10,002 to 19,999
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
TRIES = 200


def free_port(host: str = "127.0.0.1") -> int:
    """A free port below those that the system gives to outgoing connections.

    Binding port 0 gives one of those, and until the caller binds it a second time any connection may have taken it.

    Raises:
        RunError: none was found.
    """
    most = int(RANGE.read_text().split()[0]) if RANGE.is_file() else DEFAULT_MOST
    draw = random.SystemRandom()
    for _ in range(TRIES):
        port = draw.randrange(LEAST, max(most, LEAST + 1000))
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise RunError(f"no free port was found on {host}; choose one with --port")


def usable_port(host: str, port: int) -> int:
    """The port itself.

    Raises:
        UserError: something listens on it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} on {host}: {error.strerror}; choose another with --port") from None
    return port
