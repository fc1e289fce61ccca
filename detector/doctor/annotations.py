"""What is wrong with the entries and the boxes of a split, without opening an image."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int64

from detector.doctor.columns import MISSING, Columns
from detector.doctor.findings import EXAMPLES, Example, Finding, Severity
from detector.doctor.misread import misread_boxes
from detector.doctor.overlaps import coinciding_pairs

FAR = 1.0
"""Pixels by which a box must reach out of its image to be worth a line."""
TINY = 2.0
"""Pixels; objects with a shorter side can't be seen."""
EDGE = 1.0
"""Pixels by which the sides of a box of the whole image may lie off those of the image."""
USUALLY_SMALL = 0.25
"""Part of the image that the middle box of a class covers at most, for a box of the whole image to be strange."""
SAME_OBJECT = 0.9
"""IoU from which two boxes are of one object."""


def check_annotations(columns: Columns) -> Iterator[Finding]:
    """Faults of the entries of one split, then of its boxes."""
    yield from _images(columns)
    yield from _references(columns)
    yield from _boxes(columns)


def _images(columns: Columns) -> Iterator[Finding]:
    nameless = np.array([image for image, name in enumerate(columns.names) if not name], np.int64)
    if len(nameless):
        what, remedy = "images without a file name in their folder", "write file_name relative to the image folder"
        yield _of_images(columns, "image-name", "error", what, remedy, nameless)
    if missing := columns.missing:
        what = f"images that are not in {columns.folder}"
        remedy = "bring the files, correct file_name, or remove the entries"
        examples = tuple(Example(f"images[{image}], {columns.names[image]}") for image in missing[:EXAMPLES])
        yield Finding("image-missing", "error", what, columns.counts(len(missing)), remedy, examples)
    first_of = columns.first_of
    if len(again := np.flatnonzero(first_of != np.arange(len(first_of)))):
        equal = (columns.sizes[again] == columns.sizes[first_of[again]]).all()
        what = "images listed twice" + ("" if equal else ", with different sizes")
        remedy = "merge the entries: one for each file, its id in all of their annotations"
        severity: Severity = "warning" if equal else "error"
        yield _of_images(columns, "image-listed-twice", severity, what, remedy, again, mended=bool(equal))
    _, first_id, which = np.unique(columns.image_ids, return_index=True, return_inverse=True)
    shared = np.flatnonzero((first_of != first_of[first_id[which]]) & (columns.image_ids != MISSING))
    if len(shared):
        what, remedy = "images with the id of another image", "give each image an id of its own, in its annotations too"
        yield _of_images(columns, "image-id", "error", what, remedy, shared)
    if len(unsized := np.flatnonzero((columns.sizes <= 0).any(axis=1))):
        what, remedy = "images without width or height", "write them, they are read from the images at each start"
        yield _of_images(columns, "image-size-missing", "note", what, remedy, unsized, mended=True)


def _of_images(
    columns: Columns,
    code: str,
    severity: Severity,
    what: str,
    remedy: str,
    images: Int64[np.ndarray, " chosen"],
    mended: bool = False,
) -> Finding:
    examples = columns.image_examples(images)
    return Finding(code, severity, what, columns.counts(len(images)), remedy, examples, mended=mended)


def _references(columns: Columns) -> Iterator[Finding]:
    if (lost := columns.image_of < 0).any():
        what, remedy = "annotations of an image that is not listed", "list the image, or remove the annotations"
        yield _of_boxes(columns, "image-unknown", "error", what, remedy, lost, mended=True)
    if (lost := columns.label_of < 0).any():
        what, remedy = "annotations of a class that is not listed", "list the class, or correct category_id"
        yield _of_boxes(columns, "class-unknown", "error", what, remedy, lost)
    ids = columns.annotation_ids
    _, first, which = np.unique(ids, return_index=True, return_inverse=True)
    if (again := (first[which] != np.arange(len(ids))) & (ids != MISSING)).any():
        what, remedy = "annotations with the id of another one", "number them anew: pycocotools takes them for one"
        yield _of_boxes(columns, "annotation-id", "warning", what, remedy, again, mended=True)


def _of_boxes(
    columns: Columns,
    code: str,
    severity: Severity,
    what: str,
    remedy: str,
    rows: Bool[np.ndarray, " annotations"],
    mended: bool = False,
) -> Finding:
    counts = columns.counts(int(np.count_nonzero(rows)))
    return Finding(code, severity, what, counts, remedy, columns.examples(rows), mended=mended)


def _boxes(columns: Columns) -> Iterator[Finding]:
    no_box = ~np.isfinite(columns.xywh).all(axis=1)
    if no_box.any():
        what, remedy = "annotations without a box", "write bbox as 4 finite numbers: x, y, width, height"
        yield _of_boxes(columns, "box-missing", "error", what, remedy, no_box)
    pixels = ~no_box & (columns.box_sizes > 0).all(axis=1)
    for misread in misread_boxes(columns):
        convert = misread.convert
        pixels &= ~misread.rows
        what = f"boxes that are not x, y, width, height in pixels but {misread.what}"
        yield Finding(
            misread.code,
            "error",
            what,
            columns.counts(int(np.count_nonzero(misread.rows))),
            misread.remedy,
            (columns if convert is None else columns.converted(misread.rows, convert)).examples(misread.rows),
            mended=convert is not None,
        )
    yield from _shapes(columns, pixels)
    yield from _pairs(columns, pixels & (columns.xywh[:, 2:] > 0).all(axis=1) & ~columns.crowd)


def _shapes(columns: Columns, pixels: Bool[np.ndarray, " annotations"]) -> Iterator[Finding]:
    """Boxes that are odd each by itself. pixels: the boxes to look at."""
    sizes = np.where(pixels[:, None], columns.box_sizes, 1)
    xywh = np.where(pixels[:, None], columns.xywh, 0.0)
    first, extent = xywh[:, :2], xywh[:, 2:]
    last = first + extent
    inside = (np.minimum(last, sizes) - np.maximum(first, 0)).clip(0)
    negative = pixels & (extent < 0).any(axis=1)
    if negative.any():
        what, remedy = "boxes of negative width or height", "write the left upper corner first"
        yield _of_boxes(columns, "box-negative", "warning", what, remedy, negative, mended=True)
    empty = pixels & ~negative & (inside <= 0).any(axis=1)
    if empty.any():
        what = "boxes of no area in their image, which are not learned and count as missed"
        yield _of_boxes(columns, "box-empty", "warning", what, "draw them again or remove them", empty, mended=True)
    whole = pixels & ~negative & ~empty
    outside = whole & ((first < -FAR) | (last > sizes + FAR)).any(axis=1)
    if outside.any():
        what, remedy = (
            "boxes that reach out of their image",
            "clip them; many of them point to a wrong format or image size",
        )
        yield _of_boxes(columns, "box-outside", "warning", what, remedy, outside, mended=True)
    tiny = whole & (inside < TINY).any(axis=1)
    if tiny.any():
        what, remedy = f"boxes less than {TINY:g} px wide or high", "remove them if they are slips of the mouse"
        yield _of_boxes(columns, "box-tiny", "warning", what, remedy, tiny)
    parts = inside.prod(axis=1) / sizes.prod(axis=1)
    huge = whole & ~columns.crowd & ((np.abs(first) <= EDGE) & (np.abs(last - sizes) <= EDGE)).all(axis=1)
    if huge.any():
        usual = np.full(len(columns.category_names) + 1, 1.0)
        for label in np.unique(columns.label_of[huge]):
            usual[label] = np.median(parts[whole & (columns.label_of == label)])
        huge &= usual[columns.label_of] <= USUALLY_SMALL
    if huge.any():
        what = "boxes of the whole image, of classes that are small elsewhere"
        yield _of_boxes(columns, "box-huge", "note", what, "look whether they stand for the image as a whole", huge)


def _pairs(columns: Columns, solid: Bool[np.ndarray, " annotations"]) -> Iterator[Finding]:
    """Boxes that coincide. solid: the boxes to look at, of some area."""
    rows = np.flatnonzero(solid)
    pairs = rows[coinciding_pairs(columns.first_of[columns.image_of[rows]], columns.xywh[rows], SAME_OBJECT)].reshape(
        -1, 2
    )
    one, other = pairs.T
    same_class = columns.label_of[one] == columns.label_of[other]
    equal = (columns.xywh[one] == columns.xywh[other]).all(axis=1)
    kinds = (
        ("box-doubled", "boxes that are there twice, counted once", "remove the second", same_class & equal, True),
        (
            "box-nearly-doubled",
            f"boxes of one class with an IoU of {SAME_OBJECT} or more: two labels of one object",
            "keep one of the two",
            same_class & ~equal,
            False,
        ),
        (
            "box-two-classes",
            f"boxes of different classes with an IoU of {SAME_OBJECT} or more",
            "keep the right class, unless both are meant",
            ~same_class,
            False,
        ),
    )
    for code, what, remedy, mask, mended in kinds:
        if mask.any():
            count = columns.counts(len(np.unique(other[mask])))
            examples = tuple(columns.example(pair) for pair in pairs[mask][:EXAMPLES].tolist())
            yield Finding(code, "warning", what, count, remedy, examples, mended=mended)
