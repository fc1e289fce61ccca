"""The annotations of a split as arrays, faults and all: what the loader would refuse is marked, so that all of it is found."""

import posixpath
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int64

from detector.data.annotation_file import AnnotationFile
from detector.data.image_search import is_absolute, is_name, leads_up, odd_names
from detector.data.layouts import Split, SplitPaths
from detector.data.remote_images import RemoteFolder, RemoteImage, RemoteImages, look_up
from detector.data.repairs import is_box, polygon_box
from detector.doctor.findings import EXAMPLES, Example, View
from detector.errors import DataError

Convert: TypeAlias = Callable[[Float64[np.ndarray, "n 4"], Int64[np.ndarray, "n 2"]], Float64[np.ndarray, "n 4"]]
"""From boxes and the sizes of their images, (width, height) in pixels, to x, y, width, height in pixels."""
LARGEST_SIDE = 2**31 - 1
"""Pixels; no image is larger, and areas stay integers of 64 bits."""
MISSING = np.iinfo(np.int64).min
"""In place of an integer that can't be read."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The entries of a split's annotation file in its order.

    names: as the loader reads them, "" where file_name is none or leads out of the folder; missing: the places of the names
    whose file is not there, or may be several; sizes: (width, height) in pixels, 0 where not known; image_of, label_of: the places
    of an annotation's image and category, -1 where there is none with that id; xywh: pixels, NaN where bbox is no box; the
    categories are those of the file without one that only groups the others.
    """

    split: Split
    path: Path
    folder: Path | RemoteImages
    names: list[str]
    missing: list[int]
    image_ids: Int64[np.ndarray, " images"]
    sizes: Int64[np.ndarray, "images 2"]
    category_ids: Int64[np.ndarray, " categories"]
    category_names: list[str]
    annotation_ids: Int64[np.ndarray, " annotations"]
    image_of: Int64[np.ndarray, " annotations"]
    label_of: Int64[np.ndarray, " annotations"]
    xywh: Float64[np.ndarray, "annotations 4"]
    crowd: Bool[np.ndarray, " annotations"]

    @classmethod
    def of(cls, split: Split, file: AnnotationFile, paths: SplitPaths) -> "Columns":
        image_ids = _integers(file, "images", "id")
        group = file.group_without_objects()
        classes = [entry for label, entry in enumerate(file.content["categories"]) if label != group]
        category_ids = _integers(AnnotationFile(file.path, {"categories": classes}), "categories", "id")
        sides = [_integers(file, "images", side, absent=0) for side in ("width", "height")]
        sizes = np.stack(sides, axis=1).clip(0, LARGEST_SIDE)
        image_of = _places(_integers(file, "annotations", "image_id"), image_ids)
        names, missing, folder = _file_names(file, paths.images)
        return cls(
            split,
            paths.annotations,
            folder,
            names,
            missing,
            image_ids,
            sizes,
            category_ids,
            [str(entry.get("name", "")) for entry in classes],
            _integers(file, "annotations", "id", absent=MISSING),
            image_of,
            _places(_integers(file, "annotations", "category_id"), category_ids),
            _boxes(file, np.where(image_of[:, None] >= 0, sizes[image_of], 0)),
            _read(file, "annotations", lambda part: part.crowd_flags(), np.zeros(1, np.bool_)),
        )

    @property
    def normal_names(self) -> list[str]:
        return [posixpath.normpath(name) if name else "" for name in self.names]

    @property
    def present(self) -> list[int]:
        """The places of the images whose file is there."""
        missing = set(self.missing)
        return [image for image, name in enumerate(self.names) if name and image not in missing]

    @property
    def first_of(self) -> Int64[np.ndarray, " images"]:
        """For each entry of images the first that names the same file."""
        entry_of: dict[str, int] = {}
        names = (
            name or str(place) for place, name in enumerate(self.normal_names)
        )  # a number with no suffix is no image
        return np.array([entry_of.setdefault(name, place) for place, name in enumerate(names)], np.int64)

    @property
    def box_sizes(self) -> Int64[np.ndarray, "annotations 2"]:
        """Width and height in pixels of the image of each annotation; 0 where it has none or its size is not known."""
        return np.where(self.image_of[:, None] >= 0, self.sizes[self.image_of], 0)

    @property
    def are_objects(self) -> Bool[np.ndarray, " annotations"]:
        """Which annotations are boxes of some area, of objects, in an image of known size."""
        with np.errstate(invalid="ignore"):
            solid = (self.xywh[:, 2:] > 0).all(axis=1) & (self.box_sizes > 0).all(axis=1)
        return np.asarray(solid & np.isfinite(self.xywh).all(axis=1) & ~self.crowd)

    def converted(self, rows: Bool[np.ndarray, " annotations"], convert: Convert) -> "Columns":
        """A copy in which `convert` has changed the boxes of some annotations."""
        xywh = self.xywh.copy()
        xywh[rows] = convert(xywh[rows], self.box_sizes[rows])
        return replace(self, xywh=xywh)

    def counts(self, number: int) -> dict[str, int]:
        return {self.split: number}

    def image(self, image: int) -> Path | RemoteImage:
        """Where the image is, as `read_image` takes it."""
        if isinstance(self.folder, Path):
            return self.folder / self.names[image]
        return self.folder.image(image, self.names[image])

    def class_of(self, annotation: int) -> str:
        label = self.label_of[annotation]
        return self.category_names[label] if label >= 0 else "unknown class"

    def view(self, image: int, annotations: Sequence[int] = ()) -> View:
        """An image with some of its annotations, of which those without a box are not drawn."""
        drawn = [each for each in annotations if np.isfinite(self.xywh[each]).all()]
        boxes, (width, height) = self.xywh[drawn], self.sizes[image].tolist()
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        texts = [self.class_of(each) for each in drawn]
        return View(self.image(image), corners.tolist(), texts, (width, height) if width and height else None)

    def examples(self, mask: Bool[np.ndarray, " annotations"]) -> tuple[Example, ...]:
        """Of annotations, from different images first."""
        chosen = np.flatnonzero(mask)
        _, first = np.unique(self.image_of[chosen], return_index=True)
        order = np.concatenate([np.sort(first), np.setdiff1d(np.arange(len(chosen)), first)]).astype(np.int64)
        return tuple(self.example([int(each)]) for each in chosen[order][:EXAMPLES])

    def example(self, annotations: Sequence[int]) -> Example:
        """Some annotations of one image."""
        image = int(self.image_of[annotations[0]])
        words = "; ".join(
            f"annotations[{each}], {self.class_of(each)}, {_numbers(self.xywh[each])}" for each in annotations
        )
        if image < 0:
            return Example(f"{self.path.name}: {words}")
        return Example(f"{self.names[image]}: {words}", (self.view(image, annotations),))

    def image_examples(self, images: Int64[np.ndarray, " chosen"]) -> tuple[Example, ...]:
        """Of entries of images, without boxes."""
        return tuple(
            Example(f"images[{image}]" + (f", {self.names[image]}" if self.names[image] else ""), (self.view(image),))
            for image in images[:EXAMPLES].tolist()
        )


def _boxes_of_four(file: AnnotationFile) -> Float64[np.ndarray, "annotations 4"]:
    return file.boxes(
        np.zeros((len(file.content["annotations"]), 2), np.int64)
    )  # only those of five numbers need sizes


def _numbers(xywh: Float64[np.ndarray, "4"]) -> str:
    if not np.isfinite(xywh).all():
        return "no box"
    return "x {:g}, y {:g}, width {:g}, height {:g}".format(*(round(float(number), 4) for number in xywh))


def _file_names(file: AnnotationFile, folder: Path | RemoteFolder) -> tuple[list[str], list[int], Path | RemoteImages]:
    """The name of each image's file as the loader reads it, "" for what it takes for none, and the places of those whose file
    is not there; and where they are. Two names that may only be those of one file are not there, either."""
    values = [entry.get("file_name") for entry in file.content["images"]]
    names = [value if is_name(value) and not leads_up(value) else "" for value in values]
    if not isinstance(folder, Path):
        names = ["" if is_absolute(name) else name for name in names]
        images, unclear = look_up(names, folder)
        return names, [image for image in unclear if names[image]], images
    named = [image for image, name in enumerate(names) if name]
    odd = {named[place]: files for place, files in odd_names([names[image] for image in named], folder).items()}
    found = {image: files[0] for image, files in odd.items() if len(files) == 1}
    called: dict[str, set[str]] = {}
    for image in named:
        called.setdefault(posixpath.normpath(found.get(image, names[image])), set()).add(
            posixpath.normpath(names[image])
        )
    missing = []
    for image in odd:
        if image in found and len(called[posixpath.normpath(found[image])]) == 1:
            names[image] = found[image]
        elif is_absolute(names[image]):
            names[image] = ""
        else:
            missing.append(image)
    return names, missing, folder


def _boxes(file: AnnotationFile, sizes: Int64[np.ndarray, "annotations 2"]) -> Float64[np.ndarray, "annotations 4"]:
    """Boxes as the loader reads them, NaN in the place of each that it refuses. Those of five numbers share one reading."""
    entries = file.content["annotations"]
    of_five = np.array(
        [is_box(entry.get("bbox"), 5) and polygon_box(entry.get("segmentation")) is None for entry in entries], np.bool_
    )
    xywh = np.full((len(entries), 4), np.nan)
    places = np.flatnonzero(~of_five)
    others = AnnotationFile(file.path, {"annotations": [entries[place] for place in places.tolist()]})
    xywh[places] = _read(others, "annotations", _boxes_of_four, np.full((1, 4), np.nan))
    turned = [entry for entry, five in zip(entries, of_five, strict=True) if five]
    with suppress(DataError):
        xywh[of_five] = AnnotationFile(file.path, {"annotations": turned}).boxes(sizes[of_five])
    return xywh


def _read(
    file: AnnotationFile, section: str, read: Callable[[AnnotationFile], np.ndarray], nothing: np.ndarray
) -> np.ndarray:
    """A column as the loader reads it, `nothing` in the place of each entry that it refuses, found by halving."""
    entries = file.content[section]
    try:
        return read(AnnotationFile(file.path, {section: entries}))
    except DataError:
        if len(entries) == 1:
            return nothing
    middle = len(entries) // 2
    halves = (AnnotationFile(file.path, {section: half}) for half in (entries[:middle], entries[middle:]))
    return np.concatenate([_read(half, section, read, nothing) for half in halves])


def _integers(
    file: AnnotationFile, section: str, field: str, absent: int | None = None
) -> Int64[np.ndarray, " entries"]:
    return _read(file, section, lambda part: part.integers(section, field, absent), np.array([MISSING]))


def _places(
    values: Int64[np.ndarray, " annotations"], ids: Int64[np.ndarray, " known"]
) -> Int64[np.ndarray, " annotations"]:
    """Where each value stands first in `ids`, -1 if nowhere."""
    known, first = np.unique(ids, return_index=True)
    near = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where((known[near] == values) & (values != MISSING), first[near], -1)
