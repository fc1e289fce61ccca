"""A web server in a thread of this process: the socket it listens on, its start, and its end by a stop signal."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from detector.errors import ConfigError
from detector.utils.interrupts import stop_requested

LOOPBACK = ("127.", "localhost", "::1")
"""How the names of addresses begin that this machine alone reaches."""
LOOK_SECONDS = 0.1


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError if it can't."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # without what Python adds
        raise ConfigError(f"--host {host} --port {port}: {reason}; choose another one") from error


def url_of(listener: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def serving(options: uvicorn.Config, listener: socket.socket) -> Iterator[threading.Thread]:
    """The thread of a server, which at the end of the block takes no further connection and ends what is in work."""
    server = uvicorn.Server(options)
    thread = threading.Thread(target=server.run, args=([listener],), name="serves", daemon=True)
    thread.start()
    try:
        yield thread
    except BaseException:  # a second Ctrl-C
        server.force_exit = True
        raise
    finally:
        server.should_exit = True
        thread.join()


def wait_for_stop(server: threading.Thread) -> None:
    """Return when a stop signal comes, or the server has ended by itself."""
    with stop_requested() as stop:
        while server.is_alive() and not stop.is_set():
            server.join(LOOK_SECONDS)
