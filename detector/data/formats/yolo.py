"""Reads YOLO label files, `class center_x center_y width height` or `class x1 y1 x2 y2 …` a line, all in fractions."""

import os
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detector.data.annotation_file import WHOLE_NUMBER, AnnotationFile, Complain, refuse
from detector.data.box_format import require_fractions_from_center
from detector.data.formats.yolo_layout import YoloSplit, find_yolo_split, read_lines
from detector.data.layouts import Split, SplitPaths
from detector.data.repairs import polygon_area
from detector.errors import DataError
from detector.images.read import UnreadableImageError, image_size

LARGEST_FILE = 100_000_000
"""Bytes of the labels of an image."""
LARGEST_NUMBER = 9999
"""Of a class without a name."""
TOLERANCE = 0.01
"""How far a coordinate may lie outside 0..1: tools round, and some count pixels from 1."""
SIDES = ("center x", "center y", "width", "height")


class Label(NamedTuple):
    """A line of a label file. numbers: center x, center y, width, height, or the corners x1, y1, … of a polygon."""

    category: int
    numbers: tuple[float, ...]


def read_yolo_split(root: Path, split: Split | None, complain: Complain = refuse) -> tuple[AnnotationFile, SplitPaths]:
    """A split with YOLO labels as if it came from a COCO file: class numbers are the category ids, images are numbered from 1.
    None: a dataset that is not divided.

    Image sizes come from the images' headers, turned as EXIF says. An image whose header can't be read is 1x1 here, so
    that reading it fails later, where such are counted. Raises DataError, one line with file, line number and remedy.

    complain: gets the error for each line that is no label; the line is skipped if it returns.
    """
    files = find_yolo_split(root, split)
    folder = Path(os.path.commonpath({image.parent for image in files.images}))
    noticed: Counter[str] = Counter()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    boxes: list[tuple[float, ...]] = []
    for number, (image, file) in enumerate(zip(files.images, files.labels, strict=True), start=1):
        size = header_size(image)
        name = image.relative_to(folder).as_posix()
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        labels = [] if file is None else read_labels(file, files, complain)
        noticed["images without a label file, read as images without objects"] += file is None
        for label in labels:
            fields = {"id": len(annotations) + 1, "image_id": number, "category_id": label.category}
            annotations.append(fields | _in_pixels(label.numbers, size))
        boxes += [label.numbers for label in labels if len(label.numbers) == 4]
    try:
        require_fractions_from_center(np.array(boxes, np.float64).reshape(-1, 4), files.source)
    except DataError as error:
        complain(error)
    names = files.names
    if not names:
        used = {annotation["category_id"] for annotation in annotations}
        names = {number: str(number) for number in range(max(used, default=0) + 1)}
        noticed["classes without names, called by their numbers; data.yaml or classes.txt may name them"] = len(names)
    categories = [{"id": number, "name": name} for number, name in names.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return AnnotationFile(files.source, content, noticed), SplitPaths(files.source, folder)


def read_labels(file: Path, files: YoloSplit, complain: Complain = refuse) -> list[Label]:
    """The lines of a label file that are not blank; `complain` gets a DataError with the line's number for what is no label."""
    labels = []
    for number, line in enumerate(read_lines(file, LARGEST_FILE), start=1):
        if fields := line.split():
            try:
                labels.append(_label(fields, files))
            except ValueError as error:
                complain(DataError(f"{file}: line {number}: {error}"))
    return labels


def _label(fields: list[str], files: YoloSplit) -> Label:
    """A line's fields, checked. Raises ValueError with what is wrong and the remedy."""
    count = len(fields)
    if count == 6:
        raise ValueError("6 fields: a label has 5; remove the sixth, which detections have as their confidence")
    if count < 5 or count % 2 == 0:
        raise ValueError(
            f"{count} fields: a box is class, center x, center y, width, height, separated by spaces; a polygon is class, x1, y1,"
            " x2, y2 and so on"
        )
    category = _category(fields[0], files)
    numbers = []
    for place, text in enumerate(fields[1:]):
        what = SIDES[place] if count == 5 else f"{'xy'[place % 2]}{place // 2 + 1}"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{what} is {reprlib.repr(text)}: must be a number") from None
        least = 0.0 if what in ("width", "height") else -TOLERANCE
        if not least <= value <= 1 + TOLERANCE:  # nor NaN
            raise ValueError(
                f"{what} is {reprlib.repr(text)}: must be a fraction of the image, 0 to 1; divide pixels by the image's width and"
                " height, and clip what reaches out of it"
            )
        numbers.append(value)
    return Label(category, tuple(numbers))


def _category(text: str, files: YoloSplit) -> int:
    if not WHOLE_NUMBER.fullmatch(text) or text.startswith("-"):
        raise ValueError(f"class is {reprlib.repr(text)}: must be the number of a class, 0 or more")
    category = int(text.partition(".")[0])
    if not files.names and category > LARGEST_NUMBER:
        raise ValueError(f"class is {category}: without names at most {LARGEST_NUMBER}; name the classes in data.yaml")
    if files.names and category not in files.names:
        raise ValueError(
            f"class is {category}, but {files.names_file} names {len(files.names)} classes, {min(files.names)} to"
            f" {max(files.names)}; correct the class or the names"
        )
    return category


def _in_pixels(numbers: tuple[float, ...], size: tuple[int, int]) -> dict[str, Any]:
    """bbox, x, y, width, height in pixels, area in square pixels, and the polygon of one, x1, y1, …"""
    width, height = size
    if len(numbers) == 4:
        x, y, w, h = numbers
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return {"bbox": box, "area": box[2] * box[3]}
    points = np.array(numbers).reshape(-1, 2) * size
    low, high = points.min(axis=0), points.max(axis=0)
    box = [*low.tolist(), *(high - low).tolist()]
    area = polygon_area([points], box[2] * box[3])
    return {"bbox": box, "area": area, "segmentation": [points.reshape(-1).tolist()]}


def header_size(image: Path) -> tuple[int, int]:
    """(width, height) in pixels as the image's header says, turned as EXIF says; 1x1 if it can't be read."""
    try:
        return image_size(image)
    except UnreadableImageError:
        return 1, 1
