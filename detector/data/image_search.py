"""Finds the images of an annotation file on the disk, also those that it names in another way than the disk does.

Tools write the paths of the computer or server they ran on, Windows separators, percent-encoding, or another Unicode
normalization. Only a name that is not there as it stands is searched for, and each folder is listed once.
"""

import ntpath
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from detector.data.annotation_file import AnnotationFile
from detector.errors import DataError

FOLDER_OPTIONS = "--paths.train_images, --paths.val_images or --paths.test_images (train and evaluate take them)"
IMAGES = "images"
"""The folder that tools put before the names of images, or leave out."""
HASH = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of each file that is uploaded."""
SPLIT = re.compile(r"(train|val|test)(id|idation)?(\d{4})?", re.IGNORECASE)
"""The name of a folder of a split, such as valid or train2017."""
ADDRESS = re.compile(r"/?data/(upload/|local-files/\?d=)")
"""How the addresses of files in Label Studio begin."""


def file_names(file: AnnotationFile) -> list[str]:
    """The `file_name` of each image as it stands. Raises DataError for one that leads out of its folder by `..`."""
    names = file.checked_column("images", "file_name", is_name, "the name of a file")
    for index, name in enumerate(names):
        if leads_up(name):
            raise leads_out(file, index, name)
    return names


def is_name(value: Any) -> bool:
    """Whether a file may be called so."""
    return isinstance(value, str) and value != "" and "\0" not in value


def leads_up(name: str) -> bool:
    """Whether a relative name leads out of its folder by `..`."""
    normal = posixpath.normpath(name.replace("\\", "/"))
    return normal == ".." or normal.startswith("../")


def is_absolute(name: str) -> bool:
    """Whether the name starts at the root of a disk, of a server or of a bucket, in the words of any system."""
    return name.startswith(("/", "\\")) or "://" in name or bool(ntpath.splitdrive(name)[0])


def is_there(folder: Path, name: str) -> bool:
    """Whether there is a file of this name, relative to the folder."""
    try:
        return not is_absolute(name) and (folder / name).is_file()
    except (OSError, ValueError):  # a name no file can have
        return False


def leads_out(file: AnnotationFile, index: int, name: str) -> DataError:
    """The error for a name outside of the image folder."""
    return DataError(
        f"{file.path}: images[{index}].file_name is {name!r}: it leads out of the image folder;"
        " write it relative to that folder"
    )


def find_images(file: AnnotationFile, names: list[str], folder: Path) -> list[str]:
    """Each name as the file is called in `folder`; one that is not there as it stands is read where it can mean one file only.

    Counts those in `file.noticed`. Raises DataError, one line with the remedy, where the folder or a file is missing, where a
    name may mean two files, or two names one.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: this image folder of {file.path} does not exist: name it with {FOLDER_OPTIONS}")
    odd = odd_names(names, folder)
    if not odd:
        return names
    found = list(names)
    missing = []
    for index, files in odd.items():
        if len(files) > 1:
            raise DataError(
                f"{file.path}: images[{index}].file_name is {names[index]!r}: in {folder} this may be {files[0]!r} or"
                f" {files[1]!r}; correct it"
            )
        if files:
            found[index] = files[0]
        else:
            missing.append(index)
    outside = next((index for index in missing if is_absolute(names[index])), None)
    if outside is not None:
        raise leads_out(file, outside, names[outside])
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} images named in {file.path} are not in {folder}, the first: "
            f"{names[missing[0]]!r}; correct file_name there, or name the folder with {FOLDER_OPTIONS}"
        )
    _require_one_name_each(file, names, found, folder)
    first = next(iter(odd))
    example = f"the first {names[first]!r} as {found[first]!r}"
    file.noticed[f"file names read as those of files on the disk that are spelled otherwise, {example}"] = len(odd)
    return found


def odd_names(names: Sequence[str], folder: Path) -> dict[int, list[str]]:
    """For each name, by its index, that is not in the folder as it stands: the files there that it may mean."""
    images = ImageFolder(folder)
    odd = [index for index, name in enumerate(names) if not images.holds(name)]
    hashed = bool(odd) and has_hashes(names)
    return {index: images.find(names[index], hashed) for index in odd}


def has_hashes(names: Iterable[str]) -> bool:
    """Whether all names begin with a hash as Label Studio writes it; dates and other numbers of 8 digits are none."""
    bases = [re.split(r"[/\\]", unquote(name))[-1] for name in names]
    return all(map(HASH.match, bases)) and any(not base[:8].isdigit() for base in bases)


def _require_one_name_each(file: AnnotationFile, names: list[str], found: list[str], folder: Path) -> None:
    """Raise DataError if two names, not merely `a.jpg` and `./a.jpg`, are read as those of one file."""
    entry_of: dict[str, int] = {}
    for index, path in enumerate(found):
        first = entry_of.setdefault(posixpath.normpath(path), index)
        if posixpath.normpath(names[first]) != posixpath.normpath(names[index]):
            raise DataError(
                f"{file.path}: images[{first}].file_name is {names[first]!r} and images[{index}].file_name is"
                f" {names[index]!r}: in {folder} both may only be {path!r}; correct one of them, or add the missing image"
            )


@dataclass(frozen=True)
class Listing:
    """The names of the files and of the folders in a folder; none if it can't be read."""

    files: set[str]
    folders: set[str]

    @classmethod
    def of(cls, folder: Path) -> "Listing":
        files: set[str] = set()
        folders: set[str] = set()
        with suppress(OSError, ValueError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    files.add(entry.name)
                elif entry.is_dir():
                    folders.add(entry.name)
        return cls(files, folders)

    @cached_property
    def files_by_key(self) -> dict[str, list[str]]:
        return _by_key(self.files)

    @cached_property
    def folders_by_key(self) -> dict[str, list[str]]:
        return _by_key(self.folders)


class ImageFolder:
    """A folder of images and those below it, each listed when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listings: dict[str, Listing] = {}
        self._places = [_parts(place.as_posix()) for place in dict.fromkeys((path.absolute(), path.resolve()))]
        self._own_names = {IMAGES}.union(*self._places)

    def holds(self, name: str) -> bool:
        """Whether there is a file of this very name, relative to the folder."""
        if is_absolute(name):
            return False
        folder, base = posixpath.split(name)
        # The second look is for file systems that know a file by other spellings too (upper case, composed letters).
        return base in self._listing(folder).files or is_there(self.path, name)

    def find(self, name: str, hashed: bool) -> list[str]:
        """The files that a name may mean which is not there as it stands, relative to the folder.

        They have the same path in another spelling; if there is no such file, they lie in other folders; else they lack the
        hash before the name. hashed: whether it may be one.
        """
        spellings = _spellings(name)
        same = [parts for text in spellings for parts in self._same_path(text)]
        found = self._files(same)
        if not found:
            other = [parts for text in spellings for parts in self._other_folders(text)]
            found = self._files(other)
            if not found and hashed:
                found = self._files([*parts[:-1], HASH.sub("", parts[-1], count=1)] for parts in same + other if parts)
        if len(found) > 1:  # links to one file are no doubt
            found = list({(self.path / file).resolve(): file for file in found}.values())
        return found

    def _same_path(self, text: str) -> Iterator[list[str]]:
        """The path relative to the folder, if it leads there."""
        parts = _parts(text)
        if not text.startswith("/"):
            yield parts
            return
        for place in self._places:
            if parts[: len(place)] == place:
                yield parts[len(place) :]

    def _other_folders(self, text: str) -> Iterator[list[str]]:
        """Each end of an absolute path, if it does not come from another split; a relative one without `images` or names of the
        folder itself before it, or with `images`."""
        parts = _parts(text)
        if text.startswith("/"):
            own_split = _split(self._places[0][-1:])
            for start in range(len(parts)):
                if own_split is None or _split(parts[:start]) in (None, own_split):
                    yield parts[start:]
            return
        yield [IMAGES, *parts]
        repeated = takewhile(lambda start: parts[start - 1] in self._own_names, range(1, len(parts)))
        yield from (parts[start:] for start in repeated)

    def _files(self, paths: Iterable[list[str]]) -> list[str]:
        """The files that have one of the paths, but for Unicode normalization and the case of the suffix, in order.

        Each part is looked up in a listing, which has no `..`: no path leads out.
        """
        found: set[str] = set()
        for parts in paths:
            if not parts:
                continue
            folders = [""]
            for part in parts[:-1]:
                folders = [
                    posixpath.join(folder, name)
                    for folder in folders
                    for name in self._listing(folder).folders_by_key.get(_key(part), ())
                ]
            for folder in folders:
                names = self._listing(folder).files_by_key.get(_key(parts[-1]), ())
                found.update(posixpath.join(folder, name) for name in names)
        return sorted(found)

    def _listing(self, folder: str) -> Listing:
        if folder not in self._listings:
            self._listings[folder] = Listing.of(self.path / folder)
        return self._listings[folder]


def _spellings(name: str) -> list[str]:
    """The path as it stands and percent-decoded, with slashes; it begins with one if it is absolute or in Label Studio."""
    start, path = ("/", ADDRESS.sub("", name, count=1)) if ADDRESS.match(name) or is_absolute(name) else ("", name)
    texts = (start + text.replace("\\", "/") for text in (path, unquote(path)))
    return list(dict.fromkeys(map(posixpath.normpath, texts)))


def _split(folders: list[str]) -> str | None:
    """The split of the last folder that is called by one, as train, val or test; None without such."""
    splits = [match[1].lower() for match in map(SPLIT.fullmatch, folders) if match]
    return splits[-1] if splits else None


def _parts(text: str) -> list[str]:
    return [part for part in text.split("/") if part]


def _by_key(names: Iterable[str]) -> dict[str, list[str]]:
    keyed: dict[str, list[str]] = {}
    for name in names:
        keyed.setdefault(_key(name), []).append(name)
    return keyed


def _key(name: str) -> str:
    """The same for names that differ in Unicode normalization or in the case of their suffix."""
    stem, suffix = posixpath.splitext(name)
    return unicodedata.normalize("NFC", stem + suffix.lower())
