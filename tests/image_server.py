"""A web server on the loopback address with the files of a folder, which has bad days if asked to."""

import base64
import http.server
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PASSWORD = "p4ssw0rd"
USER = f"me:{PASSWORD}"


class ImageServer(http.server.ThreadingHTTPServer):
    """What it serves, and how.

    faults: for a file, what the next requests get: a status, "cut" for half of the body, "wait" for a body that never ends;
    ranges: whether it sends parts of files; locked: whether it asks for `USER`; asked: how often each file was; sent: bytes.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.faults: dict[str, list[int | str]] = defaultdict(list)
        self.ranges = True
        self.locked = False
        self.asked: Counter[str] = Counter()
        self.sent = 0
        self.ended = threading.Event()
        self.guard = threading.Lock()

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user and user + '@'}127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, *_: Any) -> None:
        """Of clients that have gone."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: ImageServer

    def do_GET(self) -> None:
        server, name = self.server, unquote(urlsplit(self.path).path).lstrip("/")
        key = f"Basic {base64.b64encode(USER.encode()).decode()}"
        if server.locked and self.headers.get("Authorization") != key:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="images"')
            self.end_headers()
            return
        with server.guard:
            server.asked[name] += 1
            fault = server.faults[name].pop(0) if server.faults[name] else 0
        file = server.root / name
        if (isinstance(fault, int) and fault) or not file.is_file():
            self.send_error(fault if isinstance(fault, int) and fault else 404)
            return
        content = file.read_bytes()
        body, asked = content, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and server.ranges:
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(content))
            body = content[start:end]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{len(content)}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault:
            body = body[: len(body) // 2]
        self.wfile.write(body)
        with server.guard:
            server.sent += len(body)
        while fault == "wait" and not server.ended.is_set():
            self.wfile.write(b"x")
            time.sleep(0.01)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(root: Path) -> Iterator[ImageServer]:
    """A server of this folder, for the time of the block."""
    with ImageServer(root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
