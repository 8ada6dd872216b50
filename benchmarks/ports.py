"""Ports for servers that are started, and started again, on loopback."""

from __future__ import annotations

import socket
from random import SystemRandom
from typing import Final

# Below where systems take the ports that they give out themselves: to clients, and to whoever binds to port 0. A server
# that is down for a moment would find its port taken, or its clients another server.
_PORTS: Final = range(10_000, 30_000)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on, and that the system gives to nobody.

    Raises:
        OSError: none was found.
    """
    rng = SystemRandom()
    for _ in range(100):
        port = rng.choice(_PORTS)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {_PORTS.start} and {_PORTS.stop} on loopback")
