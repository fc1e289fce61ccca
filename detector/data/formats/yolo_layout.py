"""Where a dataset with YOLO labels keeps its images, its label files and the names of its classes."""

import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.data.layouts import SPLITS, Split, files_below, files_in
from detector.errors import DataError
from detector.images.read import IMAGE_SUFFIXES
from detector.utils.fileio import require_regular
from detector.utils.yaml_file import TextLoader, read_yaml

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml")
FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
NAMES_FILE = "classes.txt"
NOTHING = ("", "~", "null", "Null", "NULL")
"""How YAML says that there is no value."""


@dataclass(frozen=True)
class YoloSplit:
    """The files of a split.

    source: the folder of labels or images, the list, or the description that stands for the split in messages; images:
    absolute paths; labels: the label file of each image, None where there is none; names: the name of each class
    number, empty if no file has any; names_file: that file.
    """

    source: Path
    images: tuple[Path, ...]
    labels: tuple[Path | None, ...]
    names: dict[int, str]
    names_file: Path | None


def is_yolo(root: Path) -> bool:
    """Whether the folder looks like a dataset with YOLO labels."""
    return _description(root) is not None or any(_split_folders(root, split) for split in (*SPLITS, None))


def yolo_splits(root: Path) -> list[Split]:
    """The splits that the description names or that have folders. Raises DataError for a description that can't be read."""
    description = _description(root)
    content = {} if description is None else read_yaml(description, TextLoader)
    return [split for split in SPLITS if content.get(split, "") not in NOTHING or _split_folders(root, split)]


def find_yolo_split(root: Path, split: Split | None) -> YoloSplit:
    """The files of `split` of the dataset in the folder `root`:

    data.yaml     names the folders of images or lists of images of each split, and the classes
    without it    images/{split}/ beside labels/{split}/, or {split}/images/ beside {split}/labels/; also valid for val
    not divided   images/ beside labels/, or label files and classes.txt beside the images: split is None

    The label file of an image lies where its path has `labels` in place of its last `images`, if there is that folder,
    else beside the image. Raises DataError, one line that names the file and the remedy.
    """
    description = _description(root)
    content = {} if description is None else read_yaml(description, TextLoader)
    places: list[Path] = []
    if description is not None and split is not None:
        places = _described_places(description, content, split)
    if not places:
        places = _split_folders(root, split)
        if len(places) > 1:
            shown = ", ".join(map(str, places))
            raise DataError(f"{root}: several {split} splits: {shown}; name one in data.yaml as `{split}:`")
    if not places:
        raise (
            _no_split(root, split)
            if split is not None
            else DataError(
                f"{root}: data.yaml names no split, and there is no images/ beside labels/; write `train:` with the folder or list"
                " of images"
            )
        )
    if description is not None and "kpt_shape" in content:
        raise DataError(
            f"{description}: kpt_shape: labels with keypoints are not read; keep class, center x, center y, width and"
            " height of each line, and remove kpt_shape"
        )
    images: list[Path] = []
    for place in places:
        images += _listed_images(place, root) if place.is_file() else files_below(place, IMAGE_SUFFIXES)
    if not images:
        whose = "" if split is None else f" for the {split} split"
        raise DataError(f"{places[0]}: there are no images{whose}; correct data.yaml or the folder")
    labels = _label_files(images)
    if not any(labels):
        raise DataError(
            f"{places[0]}: none of its {len(images)} images has a label file; for the first, looked for"
            f" {_label_folder(images[0].parent) / images[0].stem}.txt; an image without objects may have an empty one"
        )
    source = places[0] if len(places) == 1 or description is None else description
    if source.is_dir():
        source = _label_folder(source)
    names, names_file = _names(root, source, description, content)
    return YoloSplit(source, tuple(images), tuple(labels), names, names_file)


def _description(root: Path) -> Path | None:
    return next((root / name for name in DESCRIPTIONS if (root / name).is_file()), None)


def _split_folders(root: Path, split: Split | None) -> list[Path]:
    """The folders of images of a split that have a folder of labels at the usual place."""
    if split is None:
        pairs = [(root / "images", root / "labels")]
    else:
        names = FOLDERS[split]
        pairs = [(root / "images" / name, root / "labels" / name) for name in names]
        pairs += [(root / name / "images", root / name / "labels") for name in names]
    found = [images for images, labels in pairs if images.is_dir() and labels.is_dir()]
    return [root] if split is None and not found and _has_labels_beside(root) else found


def _has_labels_beside(root: Path) -> bool:
    """Whether a folder holds images with their label files and the names of the classes."""
    names = files_in(root)
    images = (Path(name) for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    return NAMES_FILE in names and any(f"{image.stem}.txt" in names for image in images)


def _no_split(root: Path, split: Split) -> DataError:
    found = ", ".join(yolo_splits(root)) or "none"
    if found == "none" and _split_folders(root, None):
        found += " (not divided; detector convert --split 0.8,0.2 divides)"
    return DataError(
        f"{root}: no {split} split: looked for `{split}:` in data.yaml, images/{split} beside labels/{split} and"
        f" {split}/images beside {split}/labels; splits found: {found}; write data.yaml with the folder or list of"
        " images of each split and the names of the classes"
    )


def _described_places(description: Path, content: dict[str, Any], split: Split) -> list[Path]:
    """The folders and lists that the description names for a split; none if it names none."""
    entries = content.get(split, "")
    if not isinstance(entries, list):
        entries = [] if isinstance(entries, str) and entries in NOTHING else [entries]
    base = content.get("path", "")
    base = "" if base in NOTHING else base
    for field, value in (("path", base), *((split, entry) for entry in entries)):
        if not isinstance(value, str) or "\0" in value:
            raise DataError(f"{description}: {field}: {reprlib.repr(value)} must be the path of a folder or list")
    return [_place(description, base, split, entry) for entry in entries]


def _place(description: Path, base: str, split: Split, entry: str) -> Path:
    """The folder or list that an entry means.

    `path` may be one of another computer, so that the place of data.yaml stands for it, and Roboflow writes
    ../train/images for train/images beside data.yaml.
    """
    folder = description.parent
    inside = re.sub(r"^(\.\./)+", "", entry)
    found = []
    for written in dict.fromkeys((entry, inside)):
        readings = (folder / base / written, folder / written)
        found += [reading for reading in readings if _exists(reading)][:1]
    if not found:
        raise DataError(
            f"{description}: {split}: {reprlib.repr(entry)} is not there: looked for {folder / base / entry}; write it"
            " relative to data.yaml, as a folder of images or a .txt list of them"
        )
    if len({place.resolve() for place in found}) > 1:
        raise DataError(
            f"{description}: {split}: {reprlib.repr(entry)} may be {found[0]} or {found[1]}; write the absolute path"
        )
    place = Path(os.path.normpath(found[0]))
    if place.is_file() and place.suffix.lower() != ".txt":
        raise DataError(f"{description}: {split}: {place} is neither a folder of images nor a .txt list of them")
    return place


def _exists(path: Path) -> bool:
    try:
        return path.is_dir() or path.is_file()
    except (OSError, ValueError):  # a name no file can have
        return False


def _listed_images(file: Path, root: Path) -> list[Path]:
    """The absolute paths of the images that a list names, a line each, relative to the list's folder or the dataset's."""
    images: list[Path] = []
    missing: list[tuple[int, str]] = []
    for number, line in enumerate(read_lines(file), start=1):
        if entry := line.strip():
            readings = [os.path.abspath(folder / entry) for folder in (file.parent, root)]  # noqa: PTH100
            images += (found := [Path(path) for path in readings if os.path.isfile(path)][:1])  # noqa: PTH113 - no error for \0
            missing += [] if found else [(number, entry)]
    if missing:
        number, entry = missing[0]
        raise DataError(
            f"{file}: {len(missing)} of {len(missing) + len(images)} images are not there, the first in line {number}:"
            f" {reprlib.repr(entry)}; write them relative to the list"
        )
    return images


def _label_folder(images: Path) -> Path:
    """Where the label files of the images in a folder lie."""
    parts = images.parts
    for place in reversed(range(len(parts))):
        if parts[place] == "images":
            labels = Path(*parts[:place], "labels", *parts[place + 1 :])
            return labels if labels.is_dir() else images
    return images


def _label_files(images: Sequence[Path]) -> list[Path | None]:
    present: dict[Path, tuple[Path, set[str]]] = {}
    labels: list[Path | None] = []
    for image in images:
        if image.parent not in present:
            folder = _label_folder(image.parent)
            present[image.parent] = folder, files_in(folder)
        folder, names = present[image.parent]
        name = f"{image.stem}.txt"
        labels.append(folder / name if name in names else None)
    return labels


def _names(
    root: Path, source: Path, description: Path | None, content: dict[str, Any]
) -> tuple[dict[int, str], Path | None]:
    """The name of each class number, and the file that has them."""
    if description is not None:
        return _described_names(description, content), description
    for file in (root / NAMES_FILE, root / "labels" / NAMES_FILE, source / NAMES_FILE):
        if file.is_file():
            lines = [line.strip() for line in read_lines(file)]
            while lines and not lines[-1]:
                lines.pop()
            if "" in lines or not lines:
                raise DataError(
                    f"{file}: line {len(lines) and lines.index('') + 1} is empty; write a class in each line"
                )
            return dict(enumerate(lines)), file
    return {}, None


def _described_names(description: Path, content: dict[str, Any]) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names:
        raise DataError(f"{description}: names must be a list of the classes' names, or a mapping of numbers to names")
    named: dict[int, str] = {}
    for number, name in names.items():
        if not re.fullmatch(r"\d{1,9}", str(number), re.ASCII) or not isinstance(name, str):
            raise DataError(
                f"{description}: names: {reprlib.repr({number: name})} is no number of a class with its name"
            )
        named[int(number)] = name
    count = content.get("nc", str(len(named)))
    if count != str(len(named)):
        raise DataError(
            f"{description}: nc is {reprlib.repr(count)}, but there are {len(named)} names; correct nc or names"
        )
    return named


def read_lines(file: Path, largest: int | None = None) -> list[str]:
    """The lines of a text file in UTF-8, of at most `largest` bytes. Raises DataError naming it."""
    try:
        require_regular(file)
        if largest is not None and file.stat().st_size > largest:
            raise DataError(f"{file}: more than {largest:,} bytes, the limit of such a file; remove some lines")
        return file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{file}: this file can't be read: {error.strerror}; correct its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: this is no text in UTF-8: {error.reason} at byte {error.start}; save it so") from None
