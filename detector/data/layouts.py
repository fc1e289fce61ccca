"""Finds the annotation file and the image folder of a split in the two directory layouts people have."""

import json
import os
import re
from collections.abc import Container
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from detector.config import PathsConfig
from detector.data.image_search import ImageFolder, has_hashes, is_there
from detector.data.remote_images import RemoteFolder, is_elsewhere, is_local
from detector.errors import ConfigError, DataError
from detector.utils.file_cache import FileCache, cache_home
from detector.utils.fileio import require_regular

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
ROBOFLOW_FOLDERS: dict[Split, str] = {"train": "train", "val": "valid", "test": "test"}
ROBOFLOW_FILE = "_annotations.coco.json"
GIB = 2**30
PEEKED_BYTES = 1_000_000
FIRST_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class SplitPaths:
    """The two paths of a split: the COCO JSON file, and the folder its `file_name`s are relative to, here or elsewhere."""

    annotations: Path
    images: Path | RemoteFolder


def split_paths(data: str | None, paths: PathsConfig, split: Split) -> SplitPaths:
    """Annotation file and image folder of `split`. Raises ConfigError or DataError saying which option is missing."""
    annotations, images = getattr(paths, f"{split}_json"), getattr(paths, f"{split}_images")
    if annotations is not None and images is not None:
        return SplitPaths(Path(annotations), remote_folder(images, paths) if is_elsewhere(images) else Path(images))
    if annotations is not None or images is not None:
        raise ConfigError(f"--paths.{split}_json and --paths.{split}_images belong together: give both or none")
    if data is None:
        raise ConfigError(
            f"there is no dataset: give --data FOLDER, or --paths.{split}_json and --paths.{split}_images"
        )
    return find_split(Path(data), split)


def remote_folder(images: str, paths: PathsConfig) -> RemoteFolder:
    """The place elsewhere that `images` names, or tar files on this machine, of which no copies are made."""
    folder = cache_home() / "images" if paths.cache is None else Path(paths.cache)
    return RemoteFolder(images, FileCache(folder, 0 if is_local(images) else int(paths.cache_gb * GIB)))


def find_split(root: Path, split: Split) -> SplitPaths:
    """The paths of a split below `root`, in either layout:

    COCO      annotations/instances_{split}*.json, images in {split}*/, images/{split}*/, images/ or root itself
    Roboflow  {train,valid,test}/_annotations.coco.json, images beside it

    Raises DataError, one line with what was looked for and the remedy, if there is no such split or more than one.
    """
    remedy = f"name the paths with --paths.{split}_json and --paths.{split}_images (train and evaluate take them)"
    if not root.is_dir():
        wrong = (
            f"this is a file; its folder is {root.parent}" if root.is_file() else "this dataset folder does not exist"
        )
        raise DataError(f"{root}: {wrong}; correct --data, or {remedy}")
    found = _annotation_files(root, split)
    if len(found) > 1:
        raise DataError(f"{root}: several {split} splits: {', '.join(str(path) for path in found)}; {remedy}")
    if not found:
        looked_for = f"annotations/instances_{split}*.json and {ROBOFLOW_FOLDERS[split]}/{ROBOFLOW_FILE}"
        if not coco_splits(root):
            looked_for += (
                f", for YOLO labels data.yaml, images/{split} beside labels/{split}, {split}/images and so on, for Pascal VOC"
                " XML files beside the images or in Annotations"
            )
            if others := sorted([*root.glob("annotations/*.json"), *root.glob("*.json")]):
                looked_for += f"; {others[0]} is of no split (detector convert --split 0.8,0.2 divides a dataset)"
        existing = ", ".join(coco_splits(root)) or "none"
        raise DataError(f"{root}: no {split} split: looked for {looked_for}; splits found: {existing}; {remedy}")
    annotations = found[0]
    if annotations.name == ROBOFLOW_FILE:
        return SplitPaths(annotations, annotations.parent)
    return SplitPaths(annotations, _image_folder(root, split, annotations))


def coco_splits(root: Path) -> list[Split]:
    """The splits that have a COCO annotation file."""
    return [split for split in SPLITS if _annotation_files(root, split)]


def find_undivided(source: Path) -> SplitPaths:
    """The paths of a COCO dataset that is not divided: `source` is its annotation file, or a folder with one in it or in
    annotations/. Raises DataError if there is none or more than one."""
    if source.is_dir():
        files = [*sorted(source.glob("*.json")), *sorted(source.glob("annotations/*.json"))]
        if len(files) > 1:
            raise DataError(f"{source}: it may be {' or '.join(map(str, files))}; give the file instead of the folder")
        if not files:
            raise DataError(
                f"{source}: no dataset: looked for COCO annotations (a JSON file here or in annotations/), YOLO labels"
                " (data.yaml, images/ beside labels/) and Pascal VOC (XML files beside the images or in Annotations/)"
            )
        source = files[0]
    root = source.parent.parent if source.parent.name == "annotations" else source.parent
    return SplitPaths(source, _image_folder(root, "train", source))


def files_in(folder: Path) -> set[str]:
    """The names of the regular files in a folder, and of links to such; none if it can't be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()


def files_below(folder: Path, suffixes: Container[str]) -> list[Path]:
    """The absolute paths of the files with such suffixes, in lower case, in a folder and those below, in order; hidden ones
    are skipped, and a folder that links lead to again is read once. Raises DataError naming a folder that can't be read."""
    visited: set[tuple[int, int]] = set()
    files: list[Path] = []

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise DataError(f"{error.filename}: this folder can't be read: {error.strerror}; correct its permissions")

    for parent, folders, _ in os.walk(os.path.abspath(folder), followlinks=True, onerror=refuse):  # noqa: PTH100
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        visible = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(visible, key=lambda name: (Path(parent, name).is_symlink(), name))
        names = (name for name in files_in(Path(parent)) if not name.startswith("."))
        files += [Path(parent, name) for name in names if os.path.splitext(name)[1].lower() in suffixes]  # noqa: PTH122
    return sorted(files)


def _annotation_files(root: Path, split: Split) -> list[Path]:
    """Files of either layout; CVAT writes instances_Train.json where others write instances_train.json."""
    coco = (path for path in root.glob("annotations/*.json") if path.name.lower().startswith(f"instances_{split}"))
    roboflow = root / ROBOFLOW_FOLDERS[split] / ROBOFLOW_FILE
    return sorted(coco) + ([roboflow] if roboflow.is_file() else [])


def _image_folder(root: Path, split: Split, annotations: Path) -> Path:
    """The image folder: of those that may hold the images, the first with the first image in it, as it is written or else
    in another way, else the first that exists."""
    suffix = annotations.stem.removeprefix("instances_")
    candidates = (root / suffix, root / "images" / suffix, root / split, root / "images" / split, root / "images", root)
    existing = [folder for folder in candidates if folder.is_dir()]
    first_image = _first_file_name(annotations)
    if first_image is None:
        return existing[0]
    hashed = has_hashes([first_image])
    as_written = (folder for folder in existing if is_there(folder, first_image))
    otherwise = (folder for folder in existing if ImageFolder(folder).find(first_image, hashed))
    return next(chain(as_written, otherwise, existing))


def _first_file_name(annotations: Path) -> str | None:
    """The first `file_name` near the start of the file, without parsing what may be half a gigabyte."""
    try:
        require_regular(annotations)
        with annotations.open("rb") as file:
            match = FIRST_FILE_NAME.search(file.read(PEEKED_BYTES))
        return str(json.loads(match[1])) if match else None
    except (OSError, ValueError):  # `CocoDataset.load` says what is wrong with the file
        return None
