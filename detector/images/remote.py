"""Images that are no local files: on web servers, in object stores (s3://, gs://, …) and in tar files, by fsspec."""

import glob
import re
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import PurePosixPath
from time import sleep
from urllib.parse import urlsplit

from fsspec.core import url_to_fs
from jaxtyping import UInt8
from numpy import ndarray

from detector.errors import DataError
from detector.images.read import IMAGE_SUFFIXES, UnreadableImageError, image_from_bytes
from detector.utils.http import LARGEST, RefusedError, fetch
from detector.utils.stores import is_remote, store_errors

WEB = re.compile(r"https?://", re.IGNORECASE)
WAITS = (1.0, 5.0)
"""Seconds before the second and the third time that a web server is asked."""


def find_remote(name: str) -> list[str]:
    """The names of the images behind an fsspec URL, sorted: of one image, of a folder with its subfolders, of a glob (`**` stands
    for any depth), or of a tar file, which may be local. The tar files that a folder or glob holds are opened.

    Raises DataError if there is none, or if it can't be listed.
    """
    with store_errors(name):
        system, path = url_to_fs(name)
        if glob.has_magic(path):
            found = system.glob(path)
        elif system.exists(path):
            found = [path] if system.isfile(path) else system.find(path)
        else:
            raise FileNotFoundError
        images: list[str] = []
        for each in sorted(map(str, found)):
            if each.lower().endswith(".tar"):
                images += _members(system.unstrip_protocol(each) if is_remote(name) else each)
            elif PurePosixPath(each).suffix.lower() in IMAGE_SUFFIXES:
                images.append(system.unstrip_protocol(each))
    if not images:
        raise DataError(f"{name}: holds no image; name an image, a folder, a glob or a tar file of images")
    return images


def read_remote(name: str) -> UInt8[ndarray, "height width 3"]:
    """The image with a name that `find_remote` gives, as contiguous 8-bit RGB. Raises UnreadableImageError if it can't be had."""
    content = content_of(name)
    try:
        return image_from_bytes(content)
    except DataError as error:
        raise UnreadableImageError(f"{name}: {error}") from error


def content_of(url: str) -> bytes:
    """What a URL of fsspec or of the web holds, of the size of an image at most. Raises UnreadableImageError if it can't be had."""
    with store_errors(url, UnreadableImageError):
        if WEB.match(url):
            return fetch_patiently(url)[0]
        system, path = url_to_fs(url)
        with system.open(path, "rb") as file:
            content: bytes = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UnreadableImageError(f"{url}: more than {LARGEST >> 20} MiB, which no image should have")
    return content


def without_login(url: str) -> str:
    """A URL of the web without user, password and parameters; any other as it is."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl() if WEB.match(url) else url


def part_of(url: str, start: int, length: int) -> bytes:
    """Bytes of a file at a URL of fsspec or of the web, or at a path. Raises UnreadableImageError if they can't be had."""
    if length > LARGEST:
        raise UnreadableImageError(f"{url}: {length} bytes, which no image should have")
    with store_errors(url, UnreadableImageError):
        if WEB.match(url):
            content = fetch_patiently(url, (start, length))[0]
        else:
            system, path = url_to_fs(url)
            content = system.cat_file(path, start=start, end=start + length)
    if len(content) != length:
        raise UnreadableImageError(f"{url}: ends too early, or has changed")
    return content


def fetch_patiently(url: str, part: tuple[int, int] | None = None) -> tuple[bytes, HTTPMessage]:
    """As `fetch`, tried again after a while unless the server refuses: a training goes on for days, and servers don't."""
    for wait in WAITS:
        try:
            return fetch(url, part=part)
        except RefusedError:
            raise
        except DataError:
            sleep(wait)
    return fetch(url, part=part)


def _members(tar: str) -> Iterator[str]:
    """The images in a tar file, sorted."""
    system, _ = url_to_fs(f"tar://::{tar}")
    for member in sorted(map(str, system.find(""))):
        if PurePosixPath(member).suffix.lower() in IMAGE_SUFFIXES:
            yield f"tar://{member}::{tar}"
