"""What is asked of web servers: images by URL, and a file that the user wants downloaded. Nothing else goes out."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, InvalidURL
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from detector.errors import DataError, WriteError, without_secrets
from detector.utils.fileio import write_json, writing

TIMEOUT = 10.0  # seconds that a server may be silent
DEADLINE = 60.0  # seconds in which a whole image must be there
LARGEST = 64 << 20  # bytes of an image
CHUNK = 1 << 20
REFUSALS = (400, 401, 403, 404, 410, 416)
"""Statuses that the same request gets again."""


class RefusedError(DataError):
    """What a server answers that it doesn't have or doesn't give, whenever it is asked."""


def fetch(url: str, content: bool = True, part: tuple[int, int] | None = None) -> tuple[bytes, HTTPMessage]:
    """What a server sends, within `DEADLINE` seconds and up to `LARGEST` bytes, and its headers; without `content`, these
    alone. User and password in the URL are sent if the server asks for them. Raises DataError if it can't be had.

    part: the first byte and the number of bytes, for a part of a file. Raises RefusedError if the server sends no parts.
    """
    answer: SimpleQueue[tuple[bytes, HTTPMessage] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answer.put(_transfer(url, content, part))
        except Exception as error:  # goes on in the thread that waits
            answer.put(error)

    # a thread, because a time limit of sockets starts anew with each byte
    Thread(target=ask, name="fetches an image", daemon=True).start()
    with _network_errors(url, "check the address and the network"):
        try:
            got = answer.get(timeout=DEADLINE)
        except Empty:
            raise TimeoutError(f"not complete after {DEADLINE:.0f} s") from None
        if isinstance(got, Exception):
            raise got
        return got


def download(url: str, path: Path, largest: int, progress: Callable[[int, int | None], None]) -> None:
    """Write the file behind `url` to `path`, from where an earlier call has stopped if the server still has the same file.

    That is so if its ETag, a strong one, is still that of the file `path`.json; else it begins anew. progress: gets the bytes
    that are there and the bytes in all, None if the server doesn't say. Raises DataError if the file can't be had or has
    more than `largest` bytes; what has come is kept. Raises WriteError if it can't be written; then nothing is left.
    """
    notes = path.with_name(f"{path.name}.json")
    kept = _kept(url, path, notes)
    if kept is not None and kept.done == kept.size:
        progress(kept.done, kept.size)
        return
    advice = "check the network and repeat the command, which goes on where it stopped, or name another source"
    try:
        with _network_errors(url, advice):
            answer, done = _open_rest(url, kept)
            with closing(answer):
                size = None if answer.length is None else done + answer.length
                if size is not None and size > largest:
                    raise _too_large(url, size, largest)
                if done == 0:
                    with writing(path):
                        path.unlink(missing_ok=True)
                        write_json(notes, {"url": without_secrets(url), "etag": answer.headers["ETag"], "size": size})
                _receive(answer, path, url, largest, lambda received: progress(done + received, size))
    except WriteError:
        forget(path)
        raise


def forget(path: Path) -> None:
    """Remove what `download` has written."""
    with writing(path):
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.json").unlink(missing_ok=True)


class _Kept(NamedTuple):
    """A part of a file: the bytes that are there, the bytes in all, and the strong ETag of the whole."""

    done: int
    size: int
    etag: str


def _kept(url: str, path: Path, notes: Path) -> _Kept | None:
    """What an earlier call has left of the file behind `url`; None if there is nothing to go on from."""
    try:
        noted, done = json.loads(notes.read_bytes()), path.stat().st_size
        etag, size = noted["etag"], noted["size"]
        if noted["url"] != without_secrets(url) or not etag.startswith('"') or not 0 < done <= size:
            return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # there is none, or it was not written here
        return None
    return _Kept(done, size, etag)


def _open_rest(url: str, kept: _Kept | None) -> tuple[Any, int]:
    """The server's answer, and the byte that its body begins at: that after what is kept, else 0."""
    if kept is not None:
        try:
            answer = _open(url, {"Range": f"bytes={kept.done}-", "If-Range": kept.etag})
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            error.close()
        else:
            rest = f"bytes {kept.done}-{kept.size - 1}/{kept.size}"
            same = answer.headers["Content-Range"] == rest and answer.headers["ETag"] == kept.etag
            if answer.status == HTTPStatus.PARTIAL_CONTENT and same:
                return answer, kept.done
            if answer.status == HTTPStatus.OK:
                return answer, 0
            answer.close()
    answer = _open(url)
    if answer.status != HTTPStatus.OK:
        answer.close()
        raise HTTPException(f"the server answers with status {answer.status}, not with the file")
    return answer, 0


def _receive(answer: Any, path: Path, url: str, largest: int, progress: Callable[[int], None]) -> None:
    """Append the answer's body to `path`; progress: gets the bytes received."""
    with writing(path):
        file = path.open("ab", buffering=0)
    with file:
        progress(received := 0)
        while part := answer.read1(CHUNK):
            received += len(part)
            if file.tell() + len(part) > largest:
                raise _too_large(url, file.tell() + len(part), largest)
            with writing(path):
                while part:  # where the disk is nearly full, some of it
                    part = part[file.write(part) :]
            progress(received)
    _require_whole(answer)


def _too_large(url: str, size: int, largest: int) -> DataError:
    return DataError(f"{url}: {size / 1e6:.0f} MB or more, over the limit of {largest / 1e6:.0f} MB; check the address")


def _require_whole(answer: Any) -> None:
    """Raise HTTPException for a body that ended too early, which read1 takes for whole."""
    if missing := getattr(answer, "length", None):
        raise HTTPException(f"{missing} bytes are missing")


@contextmanager
def _network_errors(url: str, advice: str) -> Iterator[None]:
    """What a network or a server makes fail in the block is raised as DataError, a line without secrets."""
    kind = DataError
    try:
        yield
        return
    except urllib.error.HTTPError as error:
        error.close()
        kind = RefusedError if error.code in REFUSALS else DataError
        reason = f"the server says {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = str(error.reason)
    except UnknownLoginError:
        reason = "the server asks for another way to log in than basic or digest authentication"
    except (ValueError, InvalidURL):  # its text may show a password
        reason = "this is no URL; write special characters of a password as %40 for @, %2F for /"
    except (OSError, HTTPException) as error:
        reason = str(error) or type(error).__name__
    raise kind(f"{url}: can't be reached ({' '.join(reason.split())}); {advice}")


class UnknownLoginError(Exception):
    """A server asks for what neither basic nor digest authentication answers."""


class Digest(urllib.request.HTTPDigestAuthHandler):
    def http_error_auth_reqed(self, *arguments: Any) -> Any:
        try:
            return super().http_error_auth_reqed(*arguments)
        except ValueError as error:
            raise UnknownLoginError from error


def _open(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """The answer of the server, through the proxy that the environment names, if any; user and password are sent if asked for."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        passwords.add_password(None, bare, unquote(parts.username), unquote(parts.password or ""))
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords), Digest(passwords))
    return opener.open(urllib.request.Request(bare, headers=dict(headers or {})), timeout=TIMEOUT)


def _transfer(url: str, content: bool, part: tuple[int, int] | None) -> tuple[bytes, HTTPMessage]:
    end = monotonic() + DEADLINE
    body = bytearray()
    headers = {} if part is None else {"Range": f"bytes={part[0]}-{sum(part) - 1}"}
    with _open(url, headers) as answer:
        if part is not None and not answer.headers.get("Content-Range", "").startswith(
            f"bytes {part[0]}-{sum(part) - 1}/"
        ):
            raise RefusedError(
                f"{url}: the server sends no parts of files (range requests); download it and name the file"
            )
        while content and monotonic() < end and (read := answer.read1(CHUNK)):
            body += read
            if len(body) > LARGEST:
                raise DataError(
                    f"{url}: more than {LARGEST >> 20} MiB, the limit of an image by URL; download it and name the file"
                )
        if content:
            _require_whole(answer)
        return bytes(body), answer.headers
