"""Finds the annotation file and the image folder of a split in the two directory layouts people have."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detector.config import PathsConfig
from detector.errors import ConfigError, DataError
from detector.utils.fileio import require_regular

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
ROBOFLOW_FOLDERS: dict[Split, str] = {"train": "train", "val": "valid", "test": "test"}
ROBOFLOW_FILE = "_annotations.coco.json"
PEEKED_BYTES = 1_000_000
FIRST_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class SplitPaths:
    """The two paths of a split: the COCO JSON file, and the folder its `file_name`s are relative to."""

    annotations: Path
    images: Path


def split_paths(data: str | None, paths: PathsConfig, split: Split) -> SplitPaths:
    """Annotation file and image folder of `split`. Raises ConfigError or DataError saying which option is missing."""
    annotations, images = getattr(paths, f"{split}_json"), getattr(paths, f"{split}_images")
    if annotations is not None and images is not None:
        return SplitPaths(Path(annotations), Path(images))
    if annotations is not None or images is not None:
        raise ConfigError(f"--paths.{split}_json and --paths.{split}_images belong together: give both or none")
    if data is None:
        raise ConfigError(
            f"there is no dataset: give --data FOLDER, or --paths.{split}_json and --paths.{split}_images"
        )
    return find_split(Path(data), split)


def find_split(root: Path, split: Split) -> SplitPaths:
    """The paths of a split below `root`, in either layout:

    COCO      annotations/instances_{split}*.json, images in {split}*/, images/{split}*/, images/ or root itself
    Roboflow  {train,valid,test}/_annotations.coco.json, images beside it

    Raises DataError, one line with what was looked for and the remedy, if there is no such split or more than one.
    """
    remedy = f"name the paths with --paths.{split}_json and --paths.{split}_images (train and evaluate take them)"
    if not root.is_dir():
        raise DataError(f"{root}: this dataset folder does not exist; correct --data, or {remedy}")
    found = _annotation_files(root, split)
    if len(found) > 1:
        raise DataError(f"{root}: several {split} splits: {', '.join(str(path) for path in found)}; {remedy}")
    if not found:
        looked_for = f"annotations/instances_{split}*.json and {ROBOFLOW_FOLDERS[split]}/{ROBOFLOW_FILE}"
        if not coco_splits(root):
            looked_for += (
                f", and for YOLO labels data.yaml, images/{split} beside labels/{split}, {split}/images and so on"
            )
        existing = ", ".join(other for other in SPLITS if _annotation_files(root, other)) or "none"
        raise DataError(f"{root}: no {split} split: looked for {looked_for}; splits found: {existing}; {remedy}")
    annotations = found[0]
    if annotations.name == ROBOFLOW_FILE:
        return SplitPaths(annotations, annotations.parent)
    return SplitPaths(annotations, _image_folder(root, split, annotations))


def coco_splits(root: Path) -> list[Split]:
    """The splits that have a COCO annotation file."""
    return [split for split in SPLITS if _annotation_files(root, split)]


def files_in(folder: Path) -> set[str]:
    """The names of the regular files in a folder, and of links to such; none if it can't be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()


def _annotation_files(root: Path, split: Split) -> list[Path]:
    roboflow = root / ROBOFLOW_FOLDERS[split] / ROBOFLOW_FILE
    return sorted(root.glob(f"annotations/instances_{split}*.json")) + ([roboflow] if roboflow.is_file() else [])


def _image_folder(root: Path, split: Split, annotations: Path) -> Path:
    """The image folder: of those that may hold the images, the first with the first image in it, else the first that exists."""
    suffix = annotations.stem.removeprefix("instances_")
    candidates = (root / suffix, root / "images" / suffix, root / split, root / "images" / split, root / "images", root)
    existing = [folder for folder in candidates if folder.is_dir()]
    first_image = _first_file_name(annotations)
    holding = [folder for folder in existing if first_image is not None and _holds(folder, first_image)]
    return (holding + existing)[0]


def _first_file_name(annotations: Path) -> str | None:
    """The first `file_name` near the start of the file, without parsing what may be half a gigabyte."""
    try:
        require_regular(annotations)
        with annotations.open("rb") as file:
            match = FIRST_FILE_NAME.search(file.read(PEEKED_BYTES))
        return str(json.loads(match[1])) if match else None
    except (OSError, ValueError):  # `CocoDataset.load` says what is wrong with the file
        return None


def _holds(folder: Path, file_name: str) -> bool:
    try:
        return (folder / file_name).is_file()
    except (OSError, ValueError):  # a name no file can have
        return False
