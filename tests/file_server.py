"""A web server on the loopback address with one file, as release pages have it, or as a bad day makes it."""

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class FileServer(http.server.ThreadingHTTPServer):
    """What it serves, and how.

    content: of the file; etag: None for none; ranges, if_range: whether it knows these headers; stop_after: bytes of each
    answer after which it hangs up, or, if `held` is given, waits for that; stated: the length that it states, None for the
    true one, -1 for none; status: for all answers, 0 for the right one; asked: the headers of each request, and its `path`.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.etag: str | None = '"one"'
        self.ranges = self.if_range = True
        self.stop_after: int | None = None
        self.held: threading.Event | None = None
        self.stated: int | None = None
        self.status = 0
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v9-s.pt"

    def handle_error(self, *_: Any) -> None:
        """Of clients that have gone."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server = self.server
        server.asked.append({**self.headers, "path": self.path})
        if self.path.endswith("/moved"):
            self.send_response(302)
            self.send_header("Location", server.url)
            self.end_headers()
            return
        body, status, start = server.content, 200, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = not server.if_range or self.headers.get("If-Range") in (None, server.etag)
        if server.ranges and asked and same:
            start = int(asked[1])
            body, status = body[start:], 206 if start < len(body) else 416
        self.send_response(server.status or status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.etag is not None:
            self.send_header("ETag", server.etag)
        if server.stated != -1:
            self.send_header("Content-Length", str(len(body) if server.stated is None else server.stated))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body[: server.stop_after])
            if server.held is not None and server.stop_after is not None:
                server.held.wait()
                self.wfile.write(body[server.stop_after :])

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """A server of this file, for the time of the block."""
    with FileServer(content) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            if server.held is not None:
                server.held.set()
            server.shutdown()
