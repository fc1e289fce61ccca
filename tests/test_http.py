"""What goes out to web servers and what comes back: images by URL, and downloads that stop and go on."""

import base64
import contextlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer, serving

from detector.errors import DataError, WriteError, without_secrets
from detector.inference.sources import find_sources
from detector.utils import http as our_http
from detector.utils.http import download, fetch


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://me:hush@cam/1", "rtsp://***@cam/1"),
        ("http://cam:8080/a/@b.jpg?size=3", "http://cam:8080/a/@b.jpg?size=3"),
        ("http://me:hu/sh#@cam/a.jpg", "http://***@cam/a.jpg"),
        (
            "https://cam/a.jpg?id=4&access_token=hush&x=1#key=hush",
            "https://cam/a.jpg?id=4&access_token=***&x=1#key=***",
        ),
        (
            "http://cam/a.jpg?%74oken=hush&n%61me=x&API%5Fk%45y=hush",
            "http://cam/a.jpg?%74oken=***&n%61me=x&API%5Fk%45y=***",
        ),
        ("http://cam/a.jpg?next=/b?key=hu?sh&x=1", "http://cam/a.jpg?next=/b?key=***&x=1"),
        ("HTTP://me:hush@cam/1", "HTTP://***@cam/1"),
        ("rtmp://me:hush@cam/1", "rtmp://***@cam/1"),
        ("folder/me:hush@x?token=1", "folder/me:hush@x?token=1"),
    ],
)
def test_secrets_of_urls_are_not_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


class Handler(http.server.BaseHTTPRequestHandler):
    """Asks for a password at /secret; sends without end elsewhere, at /slow a byte at a time until it is let go."""

    release = threading.Event()

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        if self.path.startswith("/secret") and given != "Basic " + base64.b64encode(b"me:hu/sh").decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        if self.path == "/bearer":
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Bearer")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path.startswith("/secret"):
                self.wfile.write(b"image")
            while self.path == "/endless":
                self.wfile.write(bytes(1000))
            if self.path == "/slow":
                while not self.release.wait(0.05):
                    self.wfile.write(b"x")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        Handler.release.clear()
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}"
        Handler.release.set()
        running.shutdown()


def test_a_password_of_a_url_is_sent_and_not_shown(server: str) -> None:
    url = f"http://me:hu%2Fsh@{server}/secret?token=hush"
    assert fetch(url)[0] == b"image"
    (source,) = find_sources([url])
    assert source.location == url
    assert "hu" not in f"{source} {source!r} {source.name}"
    with pytest.raises(DataError, match="another way to log in"):
        fetch(f"http://{server}/bearer")
    for wrong in (url.replace("me:", "you:"), f"http://me:hu/sh@{server}/secret"):
        with pytest.raises(DataError) as caught:
            find_sources([wrong])
        assert "hu" not in str(caught.value)
        assert "***@" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "limit", "words"),
    [("endless", "LARGEST", "the limit of an image"), ("slow", "DEADLINE", "not complete after")],
)
def test_a_transfer_has_a_size_limit_and_a_deadline(
    server: str, path: str, limit: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(our_http, limit, {"LARGEST": 1 << 20, "DEADLINE": 0.3}[limit])
    with pytest.raises(DataError, match=words):
        fetch(f"http://{server}/{path}")


CONTENT = os.urandom(300_000)
LIMIT = 1_000_000


@pytest.fixture
def file() -> Iterator[FileServer]:
    with serving(CONTENT) as running:
        yield running


class Got:
    """A target of downloads."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "file.partial"
        self.steps: list[tuple[int, int | None]] = []

    def download(self, url: str, largest: int = LIMIT) -> bytes:
        self.steps = []
        download(url, self.path, largest, lambda done, size: self.steps.append((done, size)))
        return self.path.read_bytes()


@pytest.fixture
def got(tmp_path: Path) -> Got:
    return Got(tmp_path)


def broken_off(file: FileServer, got: Got, after: int = 100_000) -> None:
    """Leave the first bytes of the file, as a broken connection does."""
    file.stop_after = after
    with pytest.raises(DataError, match=rf"{len(CONTENT) - after} bytes are missing\); check the network and repeat"):
        got.download(file.url)
    assert got.path.read_bytes() == CONTENT[:after]
    file.stop_after = None
    file.asked.clear()


def test_a_file_is_downloaded_whole_and_the_progress_reported(file: FileServer, got: Got) -> None:
    assert got.download(f"{file.url}/moved") == CONTENT
    assert (got.steps[0], got.steps[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))
    assert sorted(got.steps) == got.steps


def test_a_download_goes_on_where_it_broke_off(file: FileServer, got: Got) -> None:
    broken_off(file, got)
    assert got.download(file.url) == CONTENT
    (asked,) = file.asked
    assert (asked["Range"], asked["If-Range"]) == ("bytes=100000-", '"one"')
    assert (got.steps[0], got.steps[-1]) == ((100_000, len(CONTENT)), (len(CONTENT), len(CONTENT)))
    file.asked.clear()
    assert got.download(file.url) == CONTENT
    assert (file.asked, got.steps) == ([], [(len(CONTENT), len(CONTENT))])  # nothing is asked for what is whole


@pytest.mark.parametrize(
    ("before", "after", "longer"),
    [
        ({}, {"etag": '"two"'}, 0),
        ({}, {"etag": '"two"', "if_range": False}, 0),
        ({}, {"etag": '"two"', "ranges": False}, 0),
        ({}, {"etag": None, "if_range": False}, 0),
        ({}, {}, 1),
        ({}, {}, -250_000),
        ({"etag": 'W/"one"'}, {}, 0),
        ({"etag": None}, {}, 0),
    ],
    ids=["etag", "If-Range ignored", "Range ignored", "etag gone", "longer", "shorter", "weak etag", "no etag"],
)
def test_two_files_are_never_spliced(
    file: FileServer, got: Got, before: dict[str, Any], after: dict[str, Any], longer: int
) -> None:
    """The file at the address is another one after a download broke off: whatever its server says of it, it comes whole."""
    vars(file).update(before)
    broken_off(file, got)
    vars(file).update(after)
    file.content = os.urandom(len(CONTENT) + longer)
    assert got.download(file.url) == file.content


@pytest.mark.parametrize("notes", ["[1", "[]", "{}", '{"url": 1, "etag": 1, "size": 1}', None])
def test_damaged_notes_begin_anew(file: FileServer, got: Got, notes: str | None) -> None:
    broken_off(file, got)
    path = got.path.with_name("file.partial.json")
    path.unlink() if notes is None else path.write_text(notes)
    assert got.download(file.url) == CONTENT
    assert "Range" not in file.asked[0]


def test_another_address_begins_anew(file: FileServer, got: Got) -> None:
    broken_off(file, got)
    assert got.download(file.url.replace("127.0.0.1", "localhost")) == CONTENT
    assert "Range" not in file.asked[0]


def test_an_answer_to_another_question_is_refused(file: FileServer, got: Got) -> None:
    broken_off(file, got)
    file.status = 206
    file.ranges = False
    with pytest.raises(DataError, match="status 206, not with the file"):
        got.download(file.url)
    assert got.path.read_bytes() == CONTENT[:100_000]


def test_a_password_in_the_address_is_not_noted(file: FileServer, got: Got) -> None:
    got.download(file.url.replace("http://", "http://me:hush@") + "?token=hush")
    notes = got.path.with_name("file.partial.json").read_text()
    assert "***@127" in notes
    assert "hush" not in notes


@pytest.mark.parametrize("stated", [None, -1])
def test_a_download_has_a_size_limit(file: FileServer, got: Got, stated: int | None) -> None:
    file.stated = stated
    with pytest.raises(DataError, match=r"0 MB or more, over the limit of 0 MB; check the address"):
        got.download(file.url, largest=200_000)
    assert not got.path.exists() or got.path.stat().st_size <= 200_000
    assert got.download(file.url, largest=len(CONTENT)) == CONTENT


@pytest.mark.parametrize(("status", "words"), [(404, "the server says 404"), (204, "status 204"), (500, "says 500")])
def test_an_answer_that_is_no_file_is_one_line(file: FileServer, got: Got, status: int, words: str) -> None:
    file.status = status
    with pytest.raises(DataError, match=words) as caught:
        got.download(file.url)
    assert "\n" not in str(caught.value)
    assert not got.path.exists()


def test_nobody_there_is_one_line(file: FileServer, got: Got) -> None:
    url = file.url
    file.shutdown()
    file.server_close()
    with pytest.raises(DataError, match=r"can't be reached \(.*refused.*\); check the network"):
        got.download(url)


def test_what_cant_be_written_leaves_nothing(file: FileServer, got: Got) -> None:
    got.path.mkdir()
    with pytest.raises(WriteError, match=r"file\.partial: can't be written"):
        got.download(file.url)
    got.path.rmdir()
    assert not list(got.path.parent.iterdir())


def test_the_proxy_of_the_environment_is_asked(file: FileServer, got: Got, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", file.url.removesuffix("/v9-s.pt"))
    assert got.download("http://elsewhere.invalid/a.pt") == CONTENT
    assert file.asked[0]["path"] == "http://elsewhere.invalid/a.pt"
