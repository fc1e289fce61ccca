"""Reads Pascal VOC annotations, an XML file an image with the corners of its objects in pixels.

The corners are taken as they stand: a box is x = xmin, y = ymin, width = xmax - xmin, height = ymax - ymin. VOC's own files
count pixels from 1 and mean the last pixel inclusively, other programs count from 0; no file says which. So a box is at most
a pixel off, and what is written is read back exactly.
"""

import math
import ntpath
import posixpath
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from detector.data.annotation_file import WHOLE_NUMBER, AnnotationFile, Complain, refuse
from detector.data.formats.voc_layout import VocPlace, find_voc_splits
from detector.data.formats.yolo import header_size
from detector.data.layouts import Split, SplitPaths
from detector.errors import DataError
from detector.structures import Categories
from detector.utils.xml_file import read_xml

CORNERS = ("xmin", "ymin", "xmax", "ymax")
FLAGS = ("truncated", "occluded")
"""Flags of objects that are kept as further fields of their annotations, where they are 1."""
LARGEST_COORDINATE = 1e7
"""Pixels."""


class VocObject(NamedTuple):
    """An object of an XML file. corners: xmin, ymin, xmax, ymax in pixels, as they stand there; flags: those of `FLAGS`
    that are set."""

    name: str
    corners: tuple[float, ...]
    difficult: bool
    flags: tuple[str, ...]


class VocFile(NamedTuple):
    """An XML file. image: the name of its image, without folders, empty if it has none; size: (width, height) in pixels,
    (0, 0) if it has none."""

    image: str
    size: tuple[int, int]
    objects: tuple[VocObject, ...]


def read_voc_split(
    root: Path, split: Split | None, expected: Categories | None = None, complain: Complain = refuse
) -> tuple[AnnotationFile, SplitPaths]:
    """A split with Pascal VOC annotations as if it came from a COCO file; None: a dataset that is not divided.

    The categories are the names in all splits in alphabetical order, their ids and those of images count from 1; where all
    names are expected ones, they have those ids. `difficult` objects are `iscrowd` regions: neither objects nor background,
    as VOC's evaluation has it. Raises DataError, one line with the file, the object and the remedy.

    complain: gets the error for each object or file of the split that can't be read, or that has no image; it is skipped if
    `complain` returns.
    """
    places = find_voc_splits(root)
    if split not in places:
        raise _no_split(root, split, places)
    place = places[split]
    parsed = {name: read_voc_file(file, complain) for name, file in place.xml_files().items()}
    others = (file for other, each in places.items() if other != split for file in each.xml_files().values())
    silently = refuse if complain is refuse else _skip  # each split complains about its own files
    files = [*parsed.values(), *(read_voc_file(file, silently) for file in others)]
    names = sorted({each.name for file in files for each in file.objects})
    if not names:
        raise DataError(
            f"{place.source}: its XML files have no objects, so there are no classes; label some, or correct --data"
        )
    category_ids = {name: number for number, name in enumerate(names, start=1)}
    if expected is not None and set(names) <= set(expected.names):
        id_of = dict(zip(expected.names, expected.ids, strict=True))
        category_ids = {name: id_of[name] for name in names}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    noticed: Counter[str] = Counter()
    for number, (path, file) in enumerate(_pairs(place, parsed, complain).items(), start=1):
        noticed["images without an XML file, read as images without objects"] += file is None
        noticed["sizes of images missing in the XML files, read from the images"] += file is not None and not all(
            file.size
        )
        width, height = file.size if file is not None and all(file.size) else header_size(place.images / path)
        images.append({"id": number, "file_name": path, "width": width, "height": height})
        for each in file.objects if file is not None else ():
            noticed["difficult objects, which are neither objects nor background, as iscrowd regions"] += each.difficult
            fields = {"id": len(annotations) + 1, "image_id": number, "category_id": category_ids[each.name]}
            annotations.append(fields | _box(each) | dict.fromkeys(each.flags, 1))
    categories = [{"id": category_id, "name": name} for name, category_id in category_ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return AnnotationFile(place.source, content, noticed), SplitPaths(place.source, place.images)


def _skip(_: DataError) -> None:
    pass


def _no_split(root: Path, split: Split | None, places: dict[Split | None, VocPlace]) -> DataError:
    found = ", ".join(filter(None, places)) or "none"
    if None in places:
        found += f"; all XML files are in {places[None].xml}: divide them with detector convert --split"
    folders = "{train,valid,test}/ with XML files"
    return DataError(
        f"{root}: no {split} split: looked for ImageSets/Main/{split}.txt and {folders}; splits found: {found}"
    )


def _pairs(place: VocPlace, files: dict[str, VocFile], complain: Complain) -> dict[str, VocFile | None]:
    """The XML file of each image, None where it has none; images by path relative to their folder, in order.

    The image of sub/a.xml is sub/a with any suffix; of several, and where there is none, the one that <filename> names.
    """
    images = place.image_files()
    pairs: dict[str, VocFile | None] = {}
    for name, file in files.items():
        of_name = [path.relative_to(place.images).as_posix() for path in images.get(name, [])]
        stated = posixpath.join(posixpath.dirname(name), file.image or name)
        if len(of_name) > 1 and stated not in of_name:
            complain(
                DataError(
                    f"{place.xml / name}.xml: its image may be {' or '.join(of_name)}; name one as <filename>, or remove the"
                    " others"
                )
            )
            continue
        image = of_name[0] if len(of_name) == 1 else stated
        if image in pairs:
            complain(
                DataError(
                    f"{place.xml / name}.xml: another XML file is of the same image, {image!r}; remove one of them"
                )
            )
            continue
        pairs[image] = file
    names = place.names()
    for name in images if names is None else names:
        paths = [path.relative_to(place.images).as_posix() for path in images.get(name, [])]
        if name not in files and not paths:
            complain(
                DataError(
                    f"{place.listing}: {name!r} is listed, but there is neither {place.xml / name}.xml nor an image of that"
                    " name; remove the line, or add the image"
                )
            )
        if names is None or name not in files:
            pairs |= {path: None for path in paths if path not in pairs}
    return dict(sorted(pairs.items())) if names is None else pairs


def _box(each: VocObject) -> dict[str, Any]:
    x1, y1, x2, y2 = each.corners
    box = [x1, y1, x2 - x1, y2 - y1]
    return {"bbox": box, "area": box[2] * box[3], "iscrowd": int(each.difficult)}


def read_voc_file(path: Path, complain: Complain = refuse) -> VocFile:
    """What an XML file says, without what `complain` gets an error for, one line with the file, the object and the remedy."""
    try:
        root = read_xml(path)
        if root.tag != "annotation":
            raise DataError(
                f"{path}: this is no Pascal VOC annotation: it begins with <{reprlib.repr(root.tag)[1:-1]}>, not <annotation>;"
                " export it as Pascal VOC, or move it elsewhere"
            )
    except DataError as error:
        complain(error)
        return VocFile("", (0, 0), ())
    size = [root.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    whole = all(WHOLE_NUMBER.fullmatch(text) and 0 < int(text.partition(".")[0]) < LARGEST_COORDINATE for text in size)
    objects = []
    for number, element in enumerate(root.findall("object"), start=1):
        try:
            objects.append(_object(element))
        except ValueError as error:
            complain(DataError(f"{path}: object {number}: {error}"))
    image = ntpath.basename(root.findtext("filename", "").strip())
    width, height = (int(text.partition(".")[0]) for text in size) if whole else (0, 0)
    return VocFile(image, (width, height), tuple(objects))


def _object(element: Element) -> VocObject:
    """An <object>, checked. Raises ValueError with what is wrong and the remedy."""
    name = element.findtext("name", "").strip()
    if not name:
        raise ValueError("it has no <name>; write the name of its class")
    box = element.find("bndbox")
    if box is None:
        other = next((child.tag for child in element if child.tag in ("robndbox", "polygon", "mask")), None)
        what = f"a <{other}> but no <bndbox>" if other else "no <bndbox>"
        raise ValueError(f"it has {what}; write its box as <bndbox> with xmin, ymin, xmax, ymax")
    corners = tuple(_number(box, field) for field in CORNERS)
    for low, high in ((0, 2), (1, 3)):
        if corners[high] < corners[low]:
            raise ValueError(
                f"{CORNERS[high]} is {corners[high]:g}, less than {CORNERS[low]}, {corners[low]:g}; exchange them, if"
                " the file's boxes are corners at all"
            )
    return VocObject(
        name, corners, _flag(element, "difficult"), tuple(field for field in FLAGS if _flag(element, field))
    )


def _number(box: Element, field: str) -> float:
    text = box.findtext(field)
    if text is None:
        raise ValueError(f"<bndbox> has no <{field}>; write xmin, ymin, xmax, ymax in pixels")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST_COORDINATE:  # nor NaN
        raise ValueError(f"{field} is {reprlib.repr(text)}: must be a number of pixels")
    return value


def _flag(element: Element, field: str) -> bool:
    return element.findtext(field, "0").strip().lower() in ("1", "true")
