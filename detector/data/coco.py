"""The images of a split and their objects, where the loader's workers share them.

What passes the checks of `annotation_file` is kept in a few tensors in shared memory: workers hold no copies, however
they are started.
"""

import hashlib
import posixpath
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from detector.data.annotation_file import AnnotationFile
from detector.data.box_format import require_pixels_xywh
from detector.data.image_search import file_names, find_images, is_absolute, leads_out
from detector.data.layouts import SplitPaths
from detector.data.outlines import Outlines
from detector.data.remote_images import RemoteImage, RemoteImages, locate
from detector.data.sample import Sample
from detector.data.shared import SharedPolygons, SharedRows, share
from detector.errors import DataError
from detector.images.read import UnreadableImageError, image_size, read_image
from detector.structures import Categories

ROUNDING = 0.01  # px; annotation files are written with two decimals: a box this little outside is not worth a line
DIFFERENCES_SHOWN = 5


class Annotations(NamedTuple):
    """Annotations of one image: boxes x, y, width, height in pixels of the original, areas in square pixels, labels, and
    which of them are `iscrowd` regions."""

    boxes: Float64[np.ndarray, "n 4"]
    areas: Float64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """The images of one split with their objects, in the order of the annotation file.

    categories: the classes in label order (by category id), also those without objects; annotations_path: the JSON
    file; images_folder: what its `file_name`s are relative to, here or elsewhere; problems: lines to show once, such as clipped
    boxes.
    Indices run over 0..len - 1. Pickled for another process, the object is a few handles to shared memory.
    """

    categories: Categories
    annotations_path: Path
    images_folder: Path | RemoteImages
    problems: tuple[str, ...]
    _image_ids: Tensor
    _sizes: Tensor
    _file_names: SharedRows
    _boxes: SharedRows
    _labels: SharedRows
    _crowd_boxes: SharedRows
    _annotations: SharedRows
    _polygons: SharedPolygons | None = None

    @classmethod
    def load(cls, paths: SplitPaths, categories: Categories | None = None) -> "CocoDataset":
        """Parses and checks the annotation file, and that every image it names is in the folder, unless that is on a web server.

        categories: the classes of the training split or of the weights, to which the file's must belong by id and name,
        or be the same by name, in the same order; by default the file's own. Raises DataError, one line that names the file
        and the entry, for anything wrong.
        """
        return cls.from_annotations(AnnotationFile.parse(paths.annotations), paths, categories)

    @classmethod
    def from_annotations(
        cls, file: AnnotationFile, paths: SplitPaths, categories: Categories | None = None, polygons: bool = False
    ) -> "CocoDataset":
        """The dataset of annotations in memory, whatever format they were read from: see `load`.

        polygons: whether to keep those of the objects, for `outlines`.
        """
        expected, categories = categories, _agreed_categories(file, categories)
        names = file_names(file)
        folder = paths.images if isinstance(paths.images, Path) else locate(file, names, paths.images)
        names = find_images(file, names, folder) if isinstance(folder, Path) else names
        image_ids, sizes, images, row_of_entry = _images(file, names, paths)

        image_of = row_of_entry[file.look_up("image_id", image_ids, "images")]
        image_ids, sizes, names = image_ids[images], sizes[images], [names[entry] for entry in images]
        label_of = file.look_up("category_id", np.array(categories.ids, np.int64), "categories")
        crowd = file.crowd_flags()
        xywh = file.boxes(sizes[image_of])
        require_pixels_xywh(xywh, sizes[image_of], file.path)
        areas = file.areas(xywh)
        boxes, keep = _clip_boxes(xywh, sizes[image_of], file.noticed)
        if len(crowd) and crowd.all():
            file.noticed["annotations, all of them iscrowd: there is no object to learn or to find"] = len(crowd)
        if expected not in (None, categories):
            by_name = "classes of other ids than in the training split or the weights, matched by name"
            file.noticed[by_name] = len(categories)

        once = first_of_equal(np.column_stack((image_of, label_of, crowd, xywh)))
        file.noticed["annotations with image, category and box of an earlier one, counted once"] = len(crowd) - len(
            once
        )
        by_image = once[np.argsort(image_of[once], kind="stable")]
        objects, crowds = by_image[(keep & ~crowd)[by_image]], by_image[(keep & crowd)[by_image]]
        object_counts = np.bincount(image_of[objects], minlength=len(names))
        crowd_counts = np.bincount(image_of[crowds], minlength=len(names))
        kept = SharedPolygons.share(file, objects, boxes, object_counts) if polygons else None
        encoded = [name.encode("utf-8", "surrogatepass") for name in names]
        return cls(
            categories,
            paths.annotations,
            folder if isinstance(folder, Path) else folder.of(images),
            file.lines(),
            share(image_ids),
            share(sizes),
            SharedRows.share(np.frombuffer(b"".join(encoded), np.uint8), np.array([len(name) for name in encoded])),
            SharedRows.share(boxes[objects], object_counts),
            SharedRows.share(label_of[objects], object_counts),
            SharedRows.share(boxes[crowds], crowd_counts),
            SharedRows.share(
                np.column_stack((xywh, areas, label_of, crowd))[by_image],
                np.bincount(image_of[by_image], minlength=len(names)),
            ),
            kept,
        )

    def __len__(self) -> int:
        return len(self._image_ids)

    def image_id(self, index: int) -> int:
        """The dataset's own id of the image."""
        return int(self._image_ids[index])

    def file_name(self, index: int) -> str:
        """The name as the annotation file has it, or, where the file is spelled otherwise, as the disk has it; perhaps with
        sub-folders."""
        return self._file_names[index].tobytes().decode("utf-8", "surrogatepass")

    def image(self, index: int) -> Path | RemoteImage:
        """Where the image is, as `read_image` takes it."""
        if isinstance(self.images_folder, Path):
            return self.images_folder / self.file_name(index)
        return self.images_folder.image(index, self.file_name(index))

    def path(self, index: int) -> Path:
        """The file of an image of a dataset whose images are on this machine."""
        path = self.image(index)
        assert isinstance(path, Path), "the caller takes no --paths, and --data finds folders only"
        return path

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, as the annotation file says."""
        width, height = self._sizes[index].tolist()
        return width, height

    def boxes(self, index: int) -> Float32[np.ndarray, "n 4"]:
        """The objects: xyxy pixels in the original image, inside it; a copy."""
        return self._boxes[index]

    def labels(self, index: int) -> Int64[np.ndarray, " n"]:
        """The class of each of `boxes`, 0..C-1; a copy."""
        return self._labels[index]

    def crowd_boxes(self, index: int) -> Float32[np.ndarray, "m 4"]:
        """The `iscrowd` regions: xyxy pixels in the original image, inside it; a copy."""
        return self._crowd_boxes[index]

    def outlines(self, index: int) -> Outlines:
        """The polygons of the objects, if they were kept, and the boxes of those without any."""
        boxes = self.boxes(index)
        if self._polygons is None:
            return Outlines.of_boxes(boxes)
        found = self._polygons[index]
        bare = np.setdiff1d(np.arange(len(boxes)), found.owners)
        return found.with_boxes(bare, boxes[bare])

    def annotations(self, index: int) -> Annotations:
        """All annotations of the image as they stand in the file: not clipped, only doubles dropped, crowd regions among them."""
        rows = self._annotations[index]
        return Annotations(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), rows[:, 6].astype(np.bool_))

    def objects_per_class(self) -> list[int]:
        """The number of objects of each label, without `iscrowd` regions."""
        counts: list[int] = np.bincount(self._labels.rows.numpy(), minlength=len(self.categories)).tolist()
        return counts

    def eval_ids(self) -> list[int]:
        """A number for each image, 0..len - 1, in the order of the image ids: evaluators take ids as floating-point
        numbers, and among detections of equal score that of the image with the lower id comes first."""
        ranks: list[int] = self._image_ids.argsort().argsort().tolist()
        return ranks

    def ground_truth(self) -> dict[str, Any]:
        """The split as COCOeval takes it, with `eval_ids` as image ids and labels as category ids.

        Annotations are numbered from 1: COCOeval takes one with id 0 for an object that was not found.
        """
        eval_ids = self.eval_ids()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(len(self)):
            width, height = self.size(index)
            images.append({"id": eval_ids[index], "width": width, "height": height})
            for bbox, area, label, crowd in zip(*(column.tolist() for column in self.annotations(index)), strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": eval_ids[index],
                        "category_id": label,
                        "bbox": bbox,
                        "area": area,
                        "iscrowd": int(crowd),
                    }
                )
        categories = [{"id": label, "name": name} for label, name in enumerate(self.categories.names)]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def fingerprint(self) -> str:
        """SHA-256 over categories, annotations, and the names and lengths (in bytes) of the images; of images on web servers, which
        don't list them, without lengths."""
        digest = hashlib.sha256(repr(self.categories).encode("utf-8", "surrogatepass"))
        tensors = [self._image_ids, self._sizes, self._annotations.rows, self._annotations.starts]
        if self._polygons is not None:
            tensors += [self._polygons.points.rows, self._polygons.rings.rows, self._polygons.rings.starts]
        for values in tensors:
            digest.update(values.numpy().tobytes())
        for index in range(len(self)):
            image = self.image(index)
            length = image.stat().st_size if isinstance(image, Path) else image.length
            digest.update(f"{self.file_name(index)} {length}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def read(self, index: int) -> Sample:
        """The image, turned so that it has the size in the annotation file, and its objects in the same frame.

        Raises UnreadableImageError as `read_image` does.
        """
        image = read_image(self.image(index), self.size(index))
        return Sample(image, self.boxes(index), self.labels(index), self.crowd_boxes(index))

    def readable(self, indices: Iterable[int]) -> Iterator[tuple[int, Sample]]:
        """Read those images, each with its index; one that can't be read is named on stderr and skipped."""
        for index in indices:
            try:
                yield index, self.read(index)
            except UnreadableImageError as error:
                print(f"skipped: {error}", file=sys.stderr)


def read_categories(annotations: Path) -> Categories:
    """The categories of an annotation file, by id, also one that only groups the others. Raises DataError as
    `CocoDataset.load` does."""
    file = AnnotationFile.parse(annotations)
    return _by_id(file.unique_integers("categories", "id").tolist(), file.category_names())


def read_ids(annotations: Path, categories: Categories) -> tuple[Categories, dict[str, int]]:
    """The categories as an annotation file numbers them, and the id of each of its images by normalized file name: as in the
    dataset, that of the first entry for a file.

    categories: see `CocoDataset.load`, which raises the same DataError; names must be relative here.
    """
    file = AnnotationFile.parse(annotations)
    names = [posixpath.normpath(name) for name in file_names(file)]
    for index, name in enumerate(names):
        if is_absolute(name):
            raise leads_out(file, index, name)
    first = _first_entries(names)
    ids = file.unique_integers("images", "id", first)
    return _agreed_categories(file, categories), dict(zip(names, ids[first].tolist(), strict=True))


def _by_id(ids: list[int], names: list[str]) -> Categories:
    own = sorted(zip(ids, names, strict=True))
    return Categories(tuple(category_id for category_id, _ in own), tuple(name for _, name in own))


def _agreed_categories(file: AnnotationFile, expected: Categories | None) -> Categories:
    """The file's categories by id, if they are expected or are the same by name; the expected ones if the file's are among them.

    A category that only groups the others is none, unless it is expected.
    """
    ids, names = file.unique_integers("categories", "id").tolist(), file.category_names()
    group = file.group_without_objects()
    if group is not None and (expected is None or expected.names.count(names[group]) < names.count(names[group])):
        what = f"category {names[group]!r} without objects, the supercategory of all others, is no class"
        file.noticed[what] = 1
        del ids[group], names[group]
    categories = _by_id(ids, names)
    if expected is None:
        return categories
    name_of = {category_id: repr(name) for category_id, name in zip(expected.ids, expected.names, strict=True)}
    differences = [
        f"id {category_id} is {name!r} here and {name_of.get(category_id, 'unknown')} there"
        for category_id, name in zip(categories.ids, categories.names, strict=True)
        if name_of.get(category_id) != repr(name)
    ]
    distinct = len({name.casefold() for name in names}) == len(names)
    if differences and distinct and categories.names == expected.names:
        return categories
    if differences:
        more = len(differences) - DIFFERENCES_SHOWN
        shown = "; ".join(differences[:DIFFERENCES_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise DataError(
            f"{file.path}: its categories are not those of the training split or the weights"
            f" (give each the same id and name, import a checkpoint with --annotations, or take other weights): {shown}"
        )
    return expected


def _first_entries(names: Sequence[str]) -> Int64[np.ndarray, " names"]:
    """For each name the index of the first that is equal."""
    entry_of: dict[str, int] = {}
    return np.array([entry_of.setdefault(name, entry) for entry, name in enumerate(names)], np.int64)


def _images(
    file: AnnotationFile, names: Sequence[str], paths: SplitPaths
) -> tuple[
    Int64[np.ndarray, " entries"],
    Int64[np.ndarray, "entries 2"],
    Int64[np.ndarray, " images"],
    Int64[np.ndarray, " entries"],
]:
    """Id and size of each entry of `images`, the entries that name a file first, and the image, 0 on, of each entry.

    A size that is missing or not positive is read from the image.
    """
    first = _first_entries([posixpath.normpath(name) for name in names])
    ids = file.unique_integers("images", "id", first)
    sizes = np.stack([file.integers("images", field, absent=0) for field in ("width", "height")], axis=1)
    unknown = np.flatnonzero((sizes <= 0).any(axis=1))
    for entry in unknown.tolist():
        if not isinstance(paths.images, Path):
            raise DataError(
                f"{file.path}: images[{entry}] has no width and height, which must be there for images elsewhere, at {paths.images}"
            )
        sizes[entry] = image_size(paths.images / names[entry])
    other = np.flatnonzero((sizes != sizes[first]).any(axis=1))
    if len(other):
        (width, height), (first_width, first_height) = sizes[other[0]], sizes[first[other[0]]]
        raise DataError(
            f"{file.path}: images[{other[0]}] is {names[other[0]]!r} of {width}x{height}, images[{first[other[0]]}] is the"
            f" same file of {first_width}x{first_height}: correct width and height"
        )
    images, image_of_entry = np.unique(first, return_inverse=True)
    file.noticed["sizes of images missing or not positive, read from the images"] = len(unknown)
    file.noticed["entries of images whose file an earlier one names, merged with it"] = len(names) - len(images)
    return ids, sizes, images, image_of_entry


def _clip_boxes(
    xywh: Float64[np.ndarray, "annotations 4"], sizes: Int64[np.ndarray, "annotations 2"], noticed: Counter[str]
) -> tuple[Float32[np.ndarray, "annotations 4"], Bool[np.ndarray, " annotations"]]:
    """Each box as xyxy pixels clipped to its image, and whether any of it is left; both are counted in `noticed`."""
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    limits = np.concatenate([sizes, sizes], axis=1)
    boxes = xyxy.clip(0, limits).astype(np.float32)
    keep = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    outside = ((xyxy < -ROUNDING) | (xyxy > limits + ROUNDING)).any(axis=1)
    noticed["boxes clipped to their image"] = int(np.count_nonzero(outside & keep))
    empty = "boxes of no area in their image, not learned; AP counts their objects as missed, as pycocotools does"
    noticed[empty] = int(np.count_nonzero(~keep))
    return boxes, keep


def first_of_equal(rows: Float64[np.ndarray, "rows columns"]) -> Int64[np.ndarray, " distinct"]:
    """The places of the rows that no earlier row equals, ascending."""
    order = np.lexsort(rows.T)
    again = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    return np.delete(np.arange(len(rows)), order[1:][again])
