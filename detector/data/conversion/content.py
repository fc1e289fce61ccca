"""What is converted: splits of images with their objects, whatever format they were read from."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from detector.config import AnnotationFormat
from detector.data.annotation_file import AnnotationFile
from detector.data.coco import CocoDataset
from detector.data.image_search import is_absolute, is_name, leads_up, odd_names
from detector.data.layouts import Split, SplitPaths
from detector.data.load import annotation_format, read_split
from detector.data.repairs import rotation
from detector.errors import DataError


class LabeledObject(NamedTuple):
    """An object or `iscrowd` region. name: its class; fields: the annotation as COCO has it, with all keys that it came with;
    bbox (x, y, width, height in pixels of the original image), area and iscrowd are checked."""

    name: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class LabeledImage:
    """An image. path: its file; name: the path below the folder of its split, with / between the parts; fields: the entry as
    COCO has it, id, width and height checked; objects: what it holds."""

    path: Path
    name: str
    fields: dict[str, Any]
    objects: tuple[LabeledObject, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, as the annotations say."""
        return self.fields["width"], self.fields["height"]


@dataclass(frozen=True)
class Part:
    """A split as it was read. split: None if the dataset is not divided; categories: COCO's entries, by id; header: the other
    keys of a COCO file, such as info and licenses."""

    source: Path
    format: AnnotationFormat
    split: Split | None
    images: list[LabeledImage]
    categories: list[dict[str, Any]]
    header: dict[str, Any]


@dataclass(frozen=True)
class Output:
    """A split to write. header: the keys that all files it comes from have alike; ids: whether its ids are a dataset's own,
    not numbers given while reading."""

    images: list[LabeledImage]
    header: dict[str, Any]
    ids: bool


@dataclass(frozen=True)
class Report:
    """What is said at the end. lost: what could not be carried, and how often; written: the images and objects of each
    split; noticed: further lines."""

    lost: Counter[str] = field(default_factory=Counter)
    written: Counter[tuple[Split, str]] = field(default_factory=Counter)
    noticed: list[str] = field(default_factory=list)

    def count(self, split: Split, objects: int) -> None:
        """Count an image that is written."""
        self.written.update({(split, "images"): 1, (split, "objects"): objects})


def read_part(source: Path, split: Split | None, report: Report) -> Part:
    """A split of a dataset in whatever format; images whose file is missing are skipped and counted. Raises DataError as
    `load_split` does."""
    file, places = read_split(str(source), split)
    file, dataset = _dataset(file, places, report)
    report.noticed.extend(dataset.problems)
    index_of, entries = _image_entries(file, dataset)
    written = _annotation_entries(file, index_of, len(dataset))
    images = []
    for index in range(len(dataset)):
        width, height = dataset.size(index)
        fields = {**entries[index], "id": dataset.image_id(index), "width": width, "height": height}
        objects = tuple(_objects(dataset, index, written[index], report))
        images.append(LabeledImage(dataset.path(index), _name(dataset, index), fields, objects))
    return Part(source, annotation_format(source), split, images, _categories(file, dataset), file.header)


def _dataset(file: AnnotationFile, places: SplitPaths, report: Report) -> tuple[AnnotationFile, CocoDataset]:
    """The dataset, checked, and the annotations of it; without the images whose file is missing, if there are such."""
    noticed = Counter(file.noticed)
    try:
        return file, CocoDataset.from_annotations(file, places)
    except DataError:
        images = file.content["images"]
        assert isinstance(places.images, Path)
        missing = _missing([entry.get("file_name") for entry in images], places.images)
        present = [entry for index, entry in enumerate(images) if index not in missing]
        if not present or len(present) == len(images):
            raise
    known = {str(entry.get("id")) for entry in present}
    annotations = [entry for entry in file.content["annotations"] if str(entry.get("image_id")) in known]
    report.lost["images whose file is missing"] += len(images) - len(present)
    report.lost["objects in them"] += len(file.content["annotations"]) - len(annotations)
    content = {**file.content, "images": present, "annotations": annotations}
    file = replace(file, content=content, noticed=noticed)
    return file, CocoDataset.from_annotations(file, places)


def _missing(names: list[Any], folder: Path) -> set[int]:
    """The names, by index, that stand for no file; none where there is another error about names or the folder."""
    if not folder.is_dir() or not all(is_name(name) and not leads_up(name) for name in names):
        return set()
    return {index for index, files in odd_names(names, folder).items() if not files and not is_absolute(names[index])}


def _image_entries(file: AnnotationFile, dataset: CocoDataset) -> tuple[dict[int, int], dict[int, dict[str, Any]]]:
    """The image, 0 on, of each image id, and the entry of each image; one whose file an earlier entry names is merged with it."""
    index_of = {dataset.image_id(index): index for index in range(len(dataset))}
    by_name: dict[str, int] = {}
    entries: dict[int, dict[str, Any]] = {}
    for entry, image_id in zip(file.content["images"], file.integers("images", "id").tolist(), strict=True):
        name = posixpath.normpath(entry["file_name"])
        index = index_of.get(image_id, by_name.get(name))
        if index is not None:
            index_of[image_id] = index
            by_name.setdefault(name, index)
            entries.setdefault(index, entry)
    return index_of, entries


def _annotation_entries(file: AnnotationFile, index_of: dict[int, int], images: int) -> list[list[dict[str, Any]]]:
    """The annotations of each image as they stand in the file, in its order."""
    found: list[list[dict[str, Any]]] = [[] for _ in range(images)]
    image_ids = file.integers("annotations", "image_id").tolist()
    for entry, image_id in zip(file.content["annotations"], image_ids, strict=True):
        if image_id in index_of:
            found[index_of[image_id]].append(entry)
    return found


def _objects(
    dataset: CocoDataset, index: int, entries: list[dict[str, Any]], report: Report
) -> Iterator[LabeledObject]:
    """The objects of an image, each once, as the dataset has them, with the further keys of their entries."""
    rows = dataset.annotations(index)
    if len(entries) > len(rows.labels):
        distinct = {
            repr([entry.get(key) for key in ("category_id", "iscrowd", "bbox")]): entry for entry in reversed(entries)
        }
        report.lost["annotations with image, category and box of an earlier one"] += len(entries) - len(rows.labels)
        entries = list(reversed(distinct.values()))
    if len(entries) != len(rows.labels):
        report.lost["ids and further keys of annotations in images with such"] += len(rows.labels)
        entries = [{}] * len(rows.labels)
    for entry, box, area, label, crowd in zip(entries, *(column.tolist() for column in rows), strict=True):
        checked = {"bbox": box, "area": area, "iscrowd": int(crowd)}
        changed = {key: value for key, value in checked.items() if entry.get(key) != value}  # 10 stays 10, not 10.0
        if rotation(entry):  # the box is upright now
            changed["attributes"] = {**entry["attributes"], "rotation": 0}
            report.lost["angles of turned boxes, written as the upright boxes around them"] += 1
        yield LabeledObject(dataset.categories.names[label], {**entry, **changed})


def _categories(file: AnnotationFile, dataset: CocoDataset) -> list[dict[str, Any]]:
    entries = dict(zip(file.integers("categories", "id").tolist(), file.content["categories"], strict=True))
    classes = zip(dataset.categories.ids, dataset.categories.names, strict=True)
    return [{**entries[category_id], "id": category_id, "name": name} for category_id, name in classes]


def _name(dataset: CocoDataset, index: int) -> str:
    """The path of an image below its folder; of one that lies elsewhere, its last part."""
    assert isinstance(dataset.images_folder, Path)
    path = Path(os.path.relpath(dataset.path(index), dataset.images_folder))
    return path.name if ".." in path.parts else path.as_posix()
