"""A mended copy of a dataset: what has one plain remedy is done, everything else stays as it is."""

import copy
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from detector.data.annotation_file import AnnotationFile
from detector.data.coco import first_of_equal
from detector.data.layouts import Split, SplitPaths
from detector.data.repairs import is_box, rotation
from detector.doctor.annotations import FAR
from detector.doctor.classes import is_background
from detector.doctor.columns import MISSING, Columns
from detector.doctor.misread import misread_boxes
from detector.errors import ConfigError
from detector.images.read import UnreadableImageError, image_size
from detector.utils.fileio import require_writable, temporary_dir, writing


class Source(NamedTuple):
    """A split as it was read: its annotations, and where its files are."""

    split: Split
    file: AnnotationFile
    paths: SplitPaths


def require_new(out: Path) -> None:
    """Raise ConfigError where there is something already, WriteError where nothing can be written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--fix: {out} exists already; name a new folder for the mended copy")
    require_writable(out)


def write_mended(sources: Sequence[Source], out: Path) -> list[str]:
    """Write the dataset in the COCO layout, annotations/instances_SPLIT.json and SPLIT/ with copies of the images, into the
    new folder `out`. Returns a line for each kind of change. The folder appears when it is complete."""
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    unused = _unused_background(sources)
    with temporary_dir(out.parent) as temporary, writing(out):
        folder = temporary / "copy"
        (folder / "annotations").mkdir(parents=True)
        for source in sources:
            columns = Columns.of(source.split, source.file, source.paths)
            content, changes = mended(source, columns, unused)
            path = folder / "annotations" / f"instances_{source.split}.json"
            path.write_text(json.dumps(content), encoding="utf-8")
            _copy_images(columns, folder / source.split)
            lines += [f"{source.split}: {what}: {count}" for what, count in changes.items() if count]
        if out.is_dir():
            out.rmdir()  # empty
        folder.rename(out)
    return lines


def _unused_background(sources: Sequence[Source]) -> set[str]:
    """The names of the classes for the background that have no annotation in any split."""
    unused: set[str] = set()
    used: set[str] = set()
    for source in sources:
        columns = Columns.of(source.split, source.file, source.paths)
        for label, name in enumerate(columns.category_names):
            if is_background(name):
                (used if (columns.label_of == label).any() else unused).add(name)
    return unused - used


def _copy_images(columns: Columns, folder: Path) -> None:
    folder.mkdir()
    image_of = {columns.names[image]: image for image in reversed(columns.present)}
    for name, image in image_of.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = columns.image(image)
        if isinstance(source, Path):
            shutil.copyfile(source, target)
        else:
            target.write_bytes(source.read_bytes())


def mended(source: Source, columns: Columns, unused: set[str]) -> tuple[dict[str, Any], Counter[str]]:
    """The annotation file's content after mending, and how often what was done. unused: classes to remove, by name."""
    content = copy.deepcopy(source.file.content)
    changes: Counter[str] = Counter()
    boxes = _mend_boxes(columns, changes)
    keep = _keep(columns, boxes, changes)
    _write_boxes(content["annotations"], columns, boxes, changes)
    _mend_images(content, columns, changes)
    content["annotations"] = [entry for entry, kept in zip(content["annotations"], keep, strict=True) if kept]
    _number(content["annotations"], changes)
    categories = content["categories"]
    content["categories"] = [entry for entry in categories if str(entry.get("name", "")) not in unused]
    changes["classes of the background without annotations removed"] = len(categories) - len(content["categories"])
    return {**source.file.header, **content}, changes


def _mend_boxes(columns: Columns, changes: Counter[str]) -> np.ndarray:
    """The boxes, x, y, width, height in pixels, corners in order and inside their images; NaN as it was."""
    for misread in misread_boxes(columns):
        if misread.convert is not None:
            changes[f"boxes converted from {misread.what}"] += int(np.count_nonzero(misread.rows))
            columns = columns.converted(misread.rows, misread.convert)
        else:
            return columns.xywh
    boxes, sizes = columns.xywh.copy(), columns.box_sizes
    negative = (boxes[:, 2:] < 0).any(axis=1)
    boxes[:, :2] += boxes[:, 2:].clip(max=0)
    boxes[:, 2:] = np.abs(boxes[:, 2:])
    changes["boxes of negative width or height turned round"] = int(np.count_nonzero(negative))
    known = (sizes > 0).all(axis=1)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    outside = known & ((low < -FAR) | (high > sizes + FAR)).any(axis=1)
    low = low.clip(0, sizes)
    clipped = np.concatenate((low, high.clip(0, sizes) - low), axis=1)
    boxes[outside] = clipped[outside]
    changes["boxes clipped to their image"] = int(np.count_nonzero(outside & (boxes[:, 2:] > 0).all(axis=1)))
    return boxes


def _keep(columns: Columns, boxes: np.ndarray, changes: Counter[str]) -> Bool[np.ndarray, " annotations"]:
    """Which annotations stay."""
    lost = columns.image_of < 0
    changes["annotations of an image that is not listed removed"] = int(np.count_nonzero(lost))
    empty = ~lost & (boxes[:, 2:] <= 0).any(axis=1)
    changes["boxes of no area in their image removed"] = int(np.count_nonzero(empty))
    finite = np.isfinite(boxes).all(axis=1)
    image_of = columns.first_of[columns.image_of]
    rows = np.column_stack((image_of, columns.label_of, columns.crowd, np.where(finite[:, None], boxes, 0)))
    again = ~lost & ~empty & finite
    again[first_of_equal(rows)] = False
    changes["boxes that were there twice removed"] = int(np.count_nonzero(again))
    return np.asarray(~lost & ~empty & ~again)


def _write_boxes(annotations: list[dict[str, Any]], columns: Columns, boxes: np.ndarray, changes: Counter[str]) -> None:
    """Put the boxes that changed into the entries, and their areas where those were of the boxes; also those that the loader
    takes from polygons or turned boxes."""
    finite = np.isfinite(boxes).all(axis=1)
    other = finite & np.array(
        [not is_box(entry.get("bbox")) or rotation(entry) != 0 for entry in annotations], np.bool_
    )
    changes["upright boxes written in the place of missing or turned ones"] = int(np.count_nonzero(other))
    changed = other | (finite & (boxes != columns.xywh).any(axis=1))
    for place in np.flatnonzero(changed).tolist():
        entry, old = annotations[place], columns.xywh[place]
        new = boxes[place].tolist()
        if rotation(entry):
            entry["attributes"]["rotation"] = 0
        entry["bbox"] = [round(number, 4) for number in new]
        area = entry.get("area")
        if not isinstance(area, int | float) or np.isclose(area, abs(old[2] * old[3]), rtol=0.01, atol=0.01):
            entry["area"] = round(new[2] * new[3], 4)


def _mend_images(content: dict[str, list[Any]], columns: Columns, changes: Counter[str]) -> None:
    """Names become those on the disk; sizes that are missing come from the images; entries of one file are merged, if their
    sizes agree."""
    for entry, name in zip(content["images"], columns.names, strict=True):
        if name and entry["file_name"] != name:
            entry["file_name"] = name
            changes["names of images written as on the disk"] += 1
    for image in np.flatnonzero((columns.sizes <= 0).any(axis=1)).tolist():
        try:
            width, height = image_size(columns.image(image))
        except UnreadableImageError:
            continue
        content["images"][image] |= {"width": width, "height": height}
        changes["sizes of images read from the files"] += 1
    first_of: dict[tuple[str, int, int], int] = {}
    ids: dict[int, Any] = {}
    kept = []
    for image, (entry, name) in enumerate(zip(content["images"], columns.normal_names, strict=True)):
        key = name, *columns.sizes[image].tolist()
        mergeable = name and columns.image_ids[image] != MISSING
        first = first_of.setdefault(key, image) if mergeable else image
        if first == image:
            kept.append(entry)
        else:
            ids[image] = content["images"][first]["id"]
    for annotation, image in enumerate(columns.image_of.tolist()):
        if image in ids:
            content["annotations"][annotation]["image_id"] = ids[image]
    content["images"] = kept
    changes["images listed twice merged"] = len(ids)


def _number(annotations: list[dict[str, Any]], changes: Counter[str]) -> None:
    """Give all annotations new ids, 1 on, if two have the same or one has none."""
    ids = [json.dumps(entry.get("id")) for entry in annotations]
    if len(set(ids)) < len(ids) or "null" in ids:
        for number, entry in enumerate(annotations, start=1):
            entry["id"] = number
        changes["annotations numbered anew"] = len(ids)
