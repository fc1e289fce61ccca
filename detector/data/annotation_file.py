"""A COCO annotation file as it comes from outside: each entry is checked, every complaint names file, entry and field."""

import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int64

from detector.data.repairs import (
    around_turned,
    grouping_category,
    is_box,
    polygon_area,
    polygon_box,
    readings_of_turned,
    rotation,
)
from detector.errors import DataError
from detector.utils.fileio import require_regular

LISTS = ("images", "annotations", "categories")
LARGEST_INTEGER = 2**63 - 1
LARGEST_AREA = 1e10
"""Square pixels; COCOeval ignores objects of more without a word."""
WHOLE_NUMBER = re.compile(r"-?\d{1,19}(\.0*)?", re.ASCII)
FILE_OPTIONS = "--paths.train_json, --paths.val_json, --paths.test_json or --annotations"
Complain: TypeAlias = Callable[[DataError], None]
"""What to do about a label that can't be read."""
EXPORT_AGAIN = "export it again in the COCO format: an object with the lists images, annotations and categories"


def refuse(error: DataError) -> None:
    raise error


@dataclass(frozen=True)
class AnnotationFile:
    """The parsed JSON; reads its fields as columns, and complains about the first entry that is wrong.

    content: its lists; noticed: how often something was read otherwise than it is written, or counts otherwise than one may
    think; header: its other keys, such as info and licenses, which other formats have not.
    """

    path: Path
    content: dict[str, list[Any]]
    noticed: Counter[str] = field(default_factory=Counter)
    header: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, path: Path) -> "AnnotationFile":
        if path.suffix.lower() in (".yaml", ".yml"):
            raise DataError(
                f"{path}: this is no annotation file; for YOLO labels give the dataset's folder: {path.parent}"
            )
        try:
            require_regular(path)
            content = json.loads(path.read_bytes(), object_pairs_hook=_without_doubles)
        except FileNotFoundError:
            raise DataError(f"{path}: this annotation file does not exist; name it with {FILE_OPTIONS}") from None
        except OSError as error:
            raise DataError(
                f"{path}: this annotation file can't be read: {error.strerror}; name another with {FILE_OPTIONS}"
            ) from error
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise DataError(f"{path}: this is not JSON: {error.msg} at {where}; {EXPORT_AGAIN}") from None
        except (ValueError, RecursionError) as error:  # not text, nested without end, a key twice
            raise DataError(f"{path}: this can't be read as JSON: {error}; {EXPORT_AGAIN}") from None
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise DataError(
                f"{path}: this is not a COCO annotation file: it holds a {kind}, not an object; {EXPORT_AGAIN}"
            )
        noticed: Counter[str] = Counter()
        if content.get("annotations", ()) is None:
            content["annotations"] = []
            noticed["annotations is null, read as an empty list"] = 1
        for section in LISTS:
            if section not in content:
                raise DataError(
                    f"{path}: this is not a COCO annotation file: it has no key '{section}'; {EXPORT_AGAIN}"
                )
            if not isinstance(content[section], list):
                raise DataError(
                    f"{path}: this is not a COCO annotation file: '{section}' is not a list; {EXPORT_AGAIN}"
                )
            for index, entry in enumerate(content[section]):
                if not isinstance(entry, dict):
                    raise DataError(f"{path}: {section}[{index}] is not an object; {EXPORT_AGAIN}")
        for section in ("images", "categories"):
            if not content[section]:
                raise DataError(f"{path}: '{section}' is empty; there must be one entry at least")
        return cls(path, {section: content.pop(section) for section in LISTS}, noticed, content)

    def column(self, section: str, field: str) -> list[Any]:
        """The values of a field that every entry must have."""
        entries = self.content[section]
        try:
            return [entry[field] for entry in entries]
        except KeyError:
            index = next(index for index, entry in enumerate(entries) if field not in entry)
            raise DataError(f"{self._place(section, index, field)} is missing; every entry needs it") from None

    def checked_column(self, section: str, field: str, right: Callable[[Any], bool], expected: str) -> list[Any]:
        values = self.column(section, field)
        for index, value in enumerate(values):
            if not right(value):
                raise self._wrong(section, index, field, value, f"must be {expected}")
        return values

    def integers(
        self, section: str, field: str, absent: int | None = None, booleans: bool = False
    ) -> Int64[np.ndarray, " entries"]:
        """Whole numbers, also those written as 1.0 or "1"; `absent` stands for null, NaN and a field that isn't there."""
        usual = (int, bool) if booleans else (int,)
        if absent is None:
            values = self.column(section, field)
        else:
            values = [absent if _is_nothing(entry.get(field)) else entry[field] for entry in self.content[section]]
        numbers = [value if type(value) in usual else _whole_number(value) for value in values]
        for index, (value, number) in enumerate(zip(values, numbers, strict=True)):
            if number is None or abs(number) > LARGEST_INTEGER:
                raise self._wrong(section, index, field, value, "must be an integer")
        self.noticed['integers written as decimal number or text, such as 1.0 or "1"'] += sum(
            type(value) not in usual for value in values
        )
        return np.array(numbers, dtype=np.int64)

    def unique_integers(
        self, section: str, field: str, owners: Int64[np.ndarray, " entries"] | None = None
    ) -> Int64[np.ndarray, " entries"]:
        """Integers that no two entries share, unless they have the same owner."""
        values = self.integers(section, field)
        owners = np.arange(len(values)) if owners is None else owners
        _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        again = np.flatnonzero(owners != owners[first[inverse]])
        if len(again):
            index = int(again[0])
            raise self._wrong(
                section, index, field, int(values[index]), "an earlier entry has the same, give each its own"
            )
        return values

    def look_up(
        self, field: str, known: Int64[np.ndarray, " known"], section: str
    ) -> Int64[np.ndarray, " annotations"]:
        """Where the id in each annotation's `field` stands in `known`, the ids of the entries of `section`."""
        values = self.integers("annotations", field)
        order = np.argsort(known)
        positions: Int64[np.ndarray, " annotations"] = order[
            np.searchsorted(known, values, sorter=order).clip(max=len(known) - 1)
        ]
        unknown = np.flatnonzero(known[positions] != values)
        if len(unknown):
            index = int(unknown[0])
            raise self._wrong(
                "annotations",
                index,
                field,
                int(values[index]),
                f"no entry of '{section}' has this id; correct it, or remove the annotation",
            )
        return positions

    def crowd_flags(self) -> Bool[np.ndarray, " annotations"]:
        values = self.integers("annotations", "iscrowd", absent=0, booleans=True)
        wrong = np.flatnonzero((values < 0) | (values > 1))
        if len(wrong):
            index = int(wrong[0])
            raise self._wrong("annotations", index, "iscrowd", int(values[index]), "must be 0 or 1")
        return values.astype(np.bool_)

    def category_names(self) -> list[str]:
        """The names of the categories, also those written as numbers."""

        def is_name(value: Any) -> bool:
            return type(value) in (str, int) or (type(value) is float and math.isfinite(value) and value % 1 != 0)

        names = self.checked_column("categories", "name", is_name, "a string")
        self.noticed["category names written as numbers"] = sum(type(name) is not str for name in names)
        return [str(name) for name in names]

    def group_without_objects(self) -> int | None:
        """The index of the category that is the supercategory of all others and has no annotations, as Roboflow adds one."""
        categories = self.content["categories"]
        group = grouping_category(categories)
        if group is None:
            return None
        used = {_integer(entry.get("category_id")) for entry in self.content["annotations"]}
        return None if _integer(categories[group].get("id")) in used else group

    def boxes(self, sizes: Int64[np.ndarray, "annotations 2"]) -> Float64[np.ndarray, "annotations 4"]:
        """x, y, width, height in pixels as they stand in the file; where a box is missing or turned, those of the upright box
        around the object. sizes: (width, height) in pixels of the image of each annotation."""
        entries = self.content["annotations"]
        boxes = [entry.get("bbox") for entry in entries]
        turned: list[int] = []
        for index, entry in enumerate(entries):
            box = boxes[index]
            if is_box(box):
                continue
            missing, of_five = _is_nothing(box) or box == [], is_box(box, numbers=5)
            polygon = polygon_box(entry.get("segmentation")) if missing or of_five else None
            if polygon is not None:
                boxes[index] = polygon
                what = "boxes missing" if missing else "boxes of five numbers, the fifth an angle"
                self.noticed[f"{what}, taken from their polygons"] += 1
            elif of_five:
                turned.append(index)
            else:
                self.column("annotations", "bbox")  # complains if there is none
                raise self._wrong("annotations", index, "bbox", box, "must be 4 finite numbers: x, y, width, height")
        for index, box in zip(turned, self._turned_boxes(turned, sizes).tolist(), strict=True):
            boxes[index] = box
        xywh = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)
        rotations = np.array([rotation(entry) for entry in entries], np.float64)
        by_attribute = np.flatnonzero(rotations)
        xywh[by_attribute] = around_turned(xywh[by_attribute], rotations[by_attribute])
        what = "boxes turned by attributes.rotation, as CVAT writes them, read as the upright boxes around them"
        self.noticed[what] = len(by_attribute)
        return xywh

    def _turned_boxes(
        self, turned: list[int], sizes: Int64[np.ndarray, "annotations 2"]
    ) -> Float64[np.ndarray, "turned 4"]:
        """The upright boxes around those of five numbers, the entries `turned` of the annotations."""
        rows = np.array([self.content["annotations"][index]["bbox"] for index in turned], np.float64).reshape(-1, 5)
        if not rows[:, 4].any():
            self.noticed["boxes of five numbers, the fifth an angle of 0"] = len(rows)
            return rows[:, :4]
        readings = readings_of_turned(rows, sizes[turned])
        if len(readings) == 1:
            ((convention, boxes),) = readings.items()
            what = f"boxes of five numbers, {convention}, read as the upright boxes around them"
            self.noticed[what] = len(rows)
            return boxes
        at = int(np.flatnonzero(rows[:, 4])[0])
        shown = " or ".join(f"{boxes[at].round(1).tolist()} ({name})" for name, boxes in [*readings.items()][:2])
        complaint = (
            f"turned by its fifth number it may be {shown}" if shown else "turned it is in its image in no reading"
        )
        index = turned[at]
        box = self.content["annotations"][index]["bbox"]
        raise self._wrong(
            "annotations",
            index,
            "bbox",
            box,
            f"{complaint}; write the upright box of 4 numbers, or a polygon beside it",
        )

    def areas(self, boxes: Float64[np.ndarray, "annotations 4"]) -> Float64[np.ndarray, " annotations"]:
        """Areas in square pixels as they stand in the file; that of the polygon, else of the box, where they can't be used."""
        of_boxes = boxes[:, 2:].clip(0).prod(axis=1).clip(max=LARGEST_AREA)
        areas: Float64[np.ndarray, " annotations"] = of_boxes.copy()
        for index, entry in enumerate(self.content["annotations"]):
            stated = entry.get("area")
            if type(stated) in (int, float) and 0 <= stated <= LARGEST_AREA:
                areas[index] = stated
            else:
                areas[index] = polygon_area(entry.get("segmentation"), of_boxes[index])
                self.noticed["areas missing, negative or not finite, computed from polygon or box"] += 1
        larger = np.count_nonzero(of_boxes > areas)
        if larger and len(areas) > 1 and areas.min() == areas.max():
            self.noticed[f"areas that are all {areas[0]:g}, so APsmall, APmedium, APlarge tell nothing"] = len(areas)
        else:
            zero = "areas of 0 beside a larger box, so APsmall counts the object"
            self.noticed[zero] = int(np.count_nonzero((areas == 0) & (of_boxes > 0)))
        return areas

    def lines(self) -> tuple[str, ...]:
        """What was noticed, a line for each kind."""
        return tuple(f"{self.path}: {what}: {count}" for what, count in self.noticed.items() if count)

    def _place(self, section: str, index: int, field: str) -> str:
        return f"{self.path}: {section}[{index}].{field}"

    def _wrong(self, section: str, index: int, field: str, value: Any, complaint: str) -> DataError:
        entry = self.content[section][index]
        whose = f" (annotation id {reprlib.repr(entry['id'])})" if section == "annotations" and "id" in entry else ""
        return DataError(f"{self._place(section, index, field)} is {reprlib.repr(value)}{whose}: {complaint}")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ValueError for a key that it has twice, of which Python would take the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {reprlib.repr(key)} appears twice in one object")
    return content


def _is_nothing(value: Any) -> bool:
    return value is None or (type(value) is float and math.isnan(value))  # as pandas writes null


def _integer(value: Any) -> int | None:
    return value if type(value) is int else _whole_number(value)


def _whole_number(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is str and WHOLE_NUMBER.fullmatch(value):
        return int(value.partition(".")[0])
    return None
