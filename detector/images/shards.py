"""What lies where in tar files, found by reading only the headers of their members: no file is read as a whole."""

import json
import os
import tarfile
from typing import NamedTuple

from fsspec.core import url_to_fs

from detector.errors import DataError
from detector.images.read import UnreadableImageError
from detector.images.remote import WEB, fetch_patiently, part_of, without_login
from detector.utils.file_cache import FileCache
from detector.utils.stores import store_errors

AT_ONCE = 4096
"""Bytes that are asked for at once: a header of 512, and those of long names before it."""
LARGEST_HEADER = 1 << 20
"""Bytes of a header; a name has some hundred."""


class Member(NamedTuple):
    """A file in a tar file: its name there, its first byte and its number of bytes."""

    name: str
    start: int
    length: int


def members(tar: str, cache: FileCache) -> list[Member]:
    """The regular files in a tar file, which is not compressed, at a URL of fsspec or of the web or at a path.

    They are kept in `cache` until the tar file has another length or another state. Raises DataError if it can't be read.
    """
    length, state = _status(tar)
    key = f"members of {without_login(tar)}, {length} bytes, {state}"
    try:
        return [Member(*each) for each in json.loads(cache.read(key, lambda: _scan(tar, length)))]
    except (ValueError, TypeError):  # a copy that was damaged
        cache.discard(key)
        return [Member(*each) for each in json.loads(_scan(tar, length))]


def _status(tar: str) -> tuple[int, str]:
    """The length in bytes, and a word that changes with the content."""
    with store_errors(tar):
        if WEB.match(tar):
            headers = fetch_patiently(tar, (0, 1))[1]
            length = headers.get("Content-Range", "").rpartition("/")[2]
            if not length.isdigit():
                raise DataError(f"{tar}: the server doesn't say its length; download it and name the file")
            return int(length), headers.get("ETag", "") or headers.get("Last-Modified", "")
        system, path = url_to_fs(tar)
        return int(system.info(path)["size"]), str(system.ukey(path))


def _scan(tar: str, length: int) -> bytes:
    """The members as JSON."""
    try:
        with tarfile.open(fileobj=Ranges(tar, length), mode="r:") as file:  # type: ignore[call-overload]
            found = [(each.name, each.offset_data, each.size) for each in file if each.isreg() and not each.issparse()]
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise DataError(
            f"{tar}: this is no tar file, or a broken one ({error}); compressed ones must be unpacked by gunzip"
        ) from error
    except UnreadableImageError as error:
        raise DataError(str(error)) from error
    return json.dumps(found).encode()


class Ranges:
    """A file at a URL as `tarfile` reads it: what is skipped is not asked for."""

    def __init__(self, url: str, length: int) -> None:
        self._url, self._length = url, length
        self._place = 0
        self._start, self._bytes = 0, b""

    def read(self, size: int) -> bytes:
        if size > LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        end = min(self._place + size, self._length)
        if self._place >= end:
            return b""
        if not self._start <= self._place <= end <= self._start + len(self._bytes):
            self._start = self._place
            self._bytes = part_of(
                self._url, self._start, min(max(end - self._start, AT_ONCE), self._length - self._start)
            )
        read = self._bytes[self._place - self._start : end - self._start]
        self._place += len(read)
        return read

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET
        self._place = place
        return place

    def tell(self) -> int:
        return self._place
