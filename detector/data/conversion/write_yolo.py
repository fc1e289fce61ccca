"""Writes YOLO labels: data.yaml, images/SPLIT/ and labels/SPLIT/ with a file for every image, `class center_x center_y
width height` a line, in fractions of the image."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from detector.data.conversion.content import LabeledImage, Output, Report
from detector.data.conversion.losses import corners_inside, count_losses
from detector.data.conversion.names import Names, require_suffixes, require_text
from detector.data.conversion.place import Place
from detector.data.layouts import Split
from detector.images.read import UnreadableImageError, image_size
from detector.utils.fileio import writing


def write_yolo(
    root: Path, splits: Mapping[Split, Output], categories: list[dict[str, Any]], place: Place, report: Report
) -> None:
    """Classes are numbered from 0 in the order of the categories; `iscrowd` regions and polygons are not written."""
    class_names = [entry["name"] for entry in categories]
    for name in class_names:
        require_text(name, "the class", "rename it with --class_map")
    numbers = {name: number for number, name in enumerate(class_names)}
    count_losses(splits.values(), categories, set(), 0, report)
    for split, output in splits.items():
        require_suffixes(output.images)
        names = Names(by_stem=True, report=report)
        for image in output.images:
            if _has_other_size(image):
                # its boxes would become fractions of another side
                report.lost["images whose annotations have another size or EXIF orientation, not written"] += 1
                continue
            # readers look for labels in the place of the last folder called images
            parts = [part for part in PurePosixPath(image.name).parts[:-1] if part != "images"]
            name = names.free(PurePosixPath(*parts, PurePosixPath(image.name).name).as_posix())
            place(image.path, root / "images" / split / name)
            lines = _lines(image, numbers, report)
            report.count(split, len(lines))
            label = (root / "labels" / split / name).with_suffix(".txt")
            with writing(label):
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text("".join(lines), encoding="utf-8")
    content: dict[str, Any] = {split: f"images/{split}" for split in splits}
    content |= {"nc": len(numbers), "names": dict(enumerate(class_names))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    with writing(root / "data.yaml"):
        (root / "data.yaml").write_text(text, encoding="utf-8")


def _lines(image: LabeledImage, numbers: Mapping[str, int], report: Report) -> list[str]:
    lines = []
    width, height = image.size
    for each in image.objects:
        report.lost["iscrowd regions, not written"] += each.fields["iscrowd"]
        if not each.fields["iscrowd"] and (corners := corners_inside(image, each, report)) is not None:
            x1, y1, x2, y2 = corners
            fractions = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(" ".join([str(numbers[each.name]), *map(exact, fractions)]) + "\n")
    return lines


def exact(value: float) -> str:
    """The shortest number without an exponent that is read as this one, so that training sees the boxes of the original."""
    return np.format_float_positional(value, trim="-")


def _has_other_size(image: LabeledImage) -> bool:
    """Whether the file's header says another size than the annotations; not for a file that can't be read at all."""
    try:
        return image_size(image.path) != image.size
    except UnreadableImageError:
        return False
