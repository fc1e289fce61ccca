"""From what a user names on the command line to picture files."""

import glob
from collections.abc import Sequence
from pathlib import Path

from detector.errors import DataError

EXTENSIONS = ("jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower().lstrip(".") in EXTENSIONS and path.is_file()


def _find(source: str) -> list[Path]:
    """The pictures of one source; raises DataError if there are none."""
    known = ", ".join(EXTENSIONS)
    path = Path(source)
    if source and path.is_file():
        if not _is_picture(path):
            raise DataError(f"{source}: not a picture by its extension; name a file that ends in one of {known}")
        return [path]
    is_folder = bool(source) and path.is_dir()
    if not is_folder and not glob.has_magic(source):
        raise DataError(f"{source or 'empty path'}: no such file or folder; name an image file, a folder or a glob")
    pattern = f"{glob.escape(source)}/**" if is_folder else source
    # pathlib can't glob an absolute pattern; like the shell's, this glob passes over hidden files such as ._a.jpg
    found = (Path(name) for name in glob.iglob(pattern, recursive=True))  # noqa: PTH207
    pictures = sorted(path for path in found if _is_picture(path))
    if not pictures:
        kind = "folder" if is_folder else "glob"
        raise DataError(f"{source}: this {kind} holds no picture; name one with files that end in one of {known}")
    return pictures


def find_pictures(sources: Sequence[str]) -> list[Path]:
    """The picture files of all sources, in the order given, each file once.

    A source is an image file, a folder (all pictures in it and in its subfolders, sorted by path) or a glob (sorted;
    `**` stands for any depth). Hidden files and folders count only when named. Raises DataError, one line that names
    the source and the remedy, if a source does not exist, is no picture or holds none.
    """
    files: dict[Path, Path] = {}
    for source in sources:
        for path in _find(source):
            files.setdefault(path.resolve(), path)
    return list(files.values())
