"""From what a user names on the command line to sources of images: files, videos, cameras, URLs."""

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from PIL import Image

from detector.errors import DataError, printable, without_secrets
from detector.images.read import IMAGE_FORMATS
from detector.utils.http import fetch

IMAGES = tuple(extension for extensions in IMAGE_FORMATS.values() for extension in extensions)
VIDEOS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts", "wmv", "flv", "3gp", "h264")
TS_PACKET, TS_SYNC = 188, 0x47  # of MPEG transport streams; other .ts files are programs
RECURSIVE = re.compile(r"(?:^|(?<=[/\\]))\*\*(?:[/\\]|$)")
CAMERA = re.compile(r"camera:(\d+)")
MAX_DIGITS = 4  # of a camera's number


class Source(NamedTuple):
    """Where images come from.

    name: a path, a URL, its secrets as `***`, or camera:N; kind: what is there, cameras being videos; live: a camera,
    here or behind a URL, which goes on until it is stopped and doesn't wait: frames that come too fast are skipped;
    address: the URL with its secrets, for opening only, None where it has none.
    """

    name: str
    kind: Literal["image", "video"]
    live: bool = False
    address: str | None = None

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {self.kind!r}, live={self.live})"

    @property
    def location(self) -> str:
        """What to open."""
        return self.address or self.name

    @property
    def url(self) -> bool:
        return is_url(self.name)

    @property
    def camera(self) -> int | None:
        """The number of the camera of this machine, None if it is something else."""
        match = CAMERA.fullmatch(self.name)
        return int(match[1]) if match else None


def is_url(name: str) -> bool:
    return name.lower().startswith(("http://", "https://", "rtsp://", "rtsps://"))


def find_sources(names: Sequence[str]) -> list[Source]:
    """The sources of all names, in the order given, each once.

    A name is an image or video file, a folder (all of both in it and in its subfolders, sorted by path), a glob
    (sorted; `**` stands for any depth), camera:0 or another number, or a URL (http, https, rtsp). Hidden files and
    folders count only when named. Raises DataError, one line that names the source and the remedy, if one does not
    exist, is nothing of these or holds none, or if a server doesn't answer.
    """
    found: dict[str, Source] = {}
    for name in names:
        if camera := CAMERA.fullmatch(name):
            if len(camera[1]) > MAX_DIGITS:
                raise DataError(
                    f"{name}: the number of a camera has {MAX_DIGITS} digits at most, the first is camera:0"
                )
            found.setdefault(name, Source(name, "video", live=True))
        elif is_url(name):
            found.setdefault(name, _ask_server(name))
        else:
            for path in _find(name):
                found.setdefault(str(path.resolve()), Source(str(path), _kind(path)))
    return list(found.values())


def _extension(path: Path) -> str:
    return path.suffix.lower().lstrip(".")


def _kind(path: Path) -> Literal["image", "video"]:
    if _extension(path) == "gif":
        try:
            with Image.open(path) as image:
                return "video" if getattr(image, "is_animated", False) else "image"
        except Exception:  # Pillow raises nearly anything; whoever reads the image says what is wrong
            return "image"
    return "image" if _extension(path) in IMAGES else "video"


def _is_known(path: Path) -> bool:
    if _extension(path) == "ts":
        with path.open("rb") as file:
            return file.read(TS_PACKET + 1)[::TS_PACKET] == bytes([TS_SYNC, TS_SYNC])
    return _extension(path) in (*IMAGES, *VIDEOS)


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
            f"{source or 'empty path'}: no such file or folder; name an image file, a video, a folder, a glob,"
            " camera:0 or a URL (http, https, rtsp)"
        )
    pattern = f"{glob.escape(source)}/**" if is_folder else source
    found = [Path(name) for name in _glob(pattern) if Path(name).is_file()]
    files = sorted(path for path in found if _is_known(path))
    others = Counter(path.suffix or "without extension" for path in set(found).difference(files))
    if others and files:
        kinds = ", ".join(f"{count} {extension}" for extension, count in others.most_common(5))
        print(
            printable(f"{source}: {others.total()} files skipped that are no images or videos ({kinds})"),
            file=sys.stderr,
        )
    if not files:
        kind = "folder" if is_folder else "glob"
        raise DataError(f"{source}: this {kind} holds no image; name one with files that end in one of {known}")
    return files


def _glob(pattern: str) -> Iterator[str]:
    """What a glob stands for, like the shell without hidden files; `**` takes each folder once, since links may lead back."""
    top, *below = RECURSIVE.split(pattern, maxsplit=1)
    if not below:
        yield from glob.iglob(pattern)  # noqa: PTH207, pathlib can't glob an absolute pattern
        return
    for folder in _glob(top) if top else (os.curdir,):
        for each in _folders(folder):
            yield from _glob(f"{glob.escape(each)}/{below[0] or '*'}")


def _folders(top: str) -> Iterator[str]:
    """A folder and those below it, without hidden ones, each once."""
    seen = set()
    for folder, below, _ in os.walk(top, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if (real := os.path.realpath(folder)) in seen:
            below.clear()
        else:
            seen.add(real)
            yield folder


def _ask_server(url: str) -> Source:
    """What is behind a URL, by the type that the server states. Raises DataError if it doesn't answer."""
    name = without_secrets(url)
    address = url if url != name else None
    if url.lower().startswith("rtsp"):
        return Source(name, "video", live=True, address=address)  # it is asked when it is opened
    _, headers = fetch(url, content=False)
    stated = headers.get_content_type()
    if stated.startswith("image/") or _extension(Path(urlsplit(url).path)) in IMAGES:
        return Source(name, "image", address=address)
    # how cameras send JPEG after JPEG
    return Source(name, "video", live=stated == "multipart/x-mixed-replace", address=address)
