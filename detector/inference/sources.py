"""From what a user names on the command line to sources of images: files, videos, cameras, URLs."""

import glob
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from detector.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp")
VIDEOS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "mts", "m2ts", "wmv", "flv", "3gp")
TIMEOUT = 10.0  # seconds that a server may be silent
CAMERA = re.compile(r"camera:(\d{1,4})")


class Source(NamedTuple):
    """Where images come from.

    name: a path, a URL or camera:N; kind: what is there, cameras being videos; live: a camera, here or behind a URL,
    which goes on until it is stopped and doesn't wait: frames that come too fast are skipped.
    """

    name: str
    kind: Literal["image", "video"]
    live: bool = False

    @property
    def url(self) -> bool:
        return is_url(self.name)

    @property
    def camera(self) -> int | None:
        """The number of the camera of this machine, None if it is something else."""
        match = CAMERA.fullmatch(self.name)
        return int(match[1]) if match else None


def is_url(name: str) -> bool:
    return name.startswith(("http://", "https://", "rtsp://", "rtsps://"))


def find_sources(names: Sequence[str]) -> list[Source]:
    """The sources of all names, in the order given, each once.

    A name is an image or video file, a folder (all of both in it and in its subfolders, sorted by path), a glob
    (sorted; `**` stands for any depth), camera:0 or another number, or a URL (http, https, rtsp). Hidden files and
    folders count only when named. Raises DataError, one line that names the source and the remedy, if one does not
    exist, is nothing of these or holds none, or if a server doesn't answer.
    """
    found: dict[str, Source] = {}
    for name in names:
        if CAMERA.fullmatch(name):
            found.setdefault(name, Source(name, "video", live=True))
        elif is_url(name):
            found.setdefault(name, _ask_server(name))
        else:
            for path in _find(name):
                kind: Literal["image", "video"] = "image" if _extension(path) in IMAGES else "video"
                found.setdefault(str(path.resolve()), Source(str(path), kind))
    return list(found.values())


def _extension(path: Path) -> str:
    return path.suffix.lower().lstrip(".")


def _is_known(path: Path) -> bool:
    return _extension(path) in (*IMAGES, *VIDEOS) and path.is_file()


def _find(source: str) -> list[Path]:
    """The files of one name; raises DataError if there are none."""
    known = f"{', '.join(IMAGES)}, or of a video: {', '.join(VIDEOS)}"
    path = Path(source)
    if source and path.is_file():
        if not _is_known(path):
            raise DataError(f"{source}: not an image by its extension; name a file that ends in one of {known}")
        return [path]
    is_folder = bool(source) and path.is_dir()
    if not is_folder and not glob.has_magic(source):
        raise DataError(
            f"{source or 'empty path'}: no such file or folder; name an image file, a video, a folder, a glob, camera:0"
            " or a URL (http, https, rtsp)"
        )
    pattern = f"{glob.escape(source)}/**" if is_folder else source
    # pathlib can't glob an absolute pattern; like the shell's, this glob passes over hidden files such as ._a.jpg
    found = (Path(name) for name in glob.iglob(pattern, recursive=True))  # noqa: PTH207
    files = sorted(path for path in found if _is_known(path))
    if not files:
        kind = "folder" if is_folder else "glob"
        raise DataError(f"{source}: this {kind} holds no image; name one with files that end in one of {known}")
    return files


def _ask_server(url: str) -> Source:
    """What is behind a URL, by the type that the server states. Raises DataError if it doesn't answer."""
    if url.startswith("rtsp"):
        return Source(url, "video", live=True)  # it is asked when it is opened
    _, headers = fetch(url, content=False)
    stated = headers.get_content_type()
    if stated.startswith("image/") or _extension(Path(urlsplit(url).path)) in IMAGES:
        return Source(url, "image")
    return Source(url, "video", live=stated == "multipart/x-mixed-replace")  # how cameras send JPEG after JPEG


def fetch(url: str, content: bool = True) -> tuple[bytes, HTTPMessage]:
    """What a server sends and its headers; without `content`, these alone. Raises DataError if it can't be had."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read() if content else b"", answer.headers
    except urllib.error.HTTPError as error:
        reason = f"the server says {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = str(error.reason)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: no URL after all
        reason = str(error) or type(error).__name__
    raise DataError(f"{url}: can't be reached ({' '.join(reason.split())}); check the address and the network")
