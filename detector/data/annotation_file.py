"""A COCO annotation file as it comes from outside: each entry is checked, every complaint names file, entry and field."""

import json
import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from detector.errors import DataError

LISTS = ("images", "annotations", "categories")
LARGEST_INTEGER = 2**63 - 1
FILE_OPTIONS = "--paths.train_json, --paths.val_json, --paths.test_json or --annotations"
EXPORT_AGAIN = "export it again in the COCO format: an object with the lists images, annotations and categories"


@dataclass(frozen=True)
class AnnotationFile:
    """The parsed JSON; reads its fields as columns, and complains about the first entry that is wrong."""

    path: Path
    content: dict[str, list[Any]]

    @classmethod
    def parse(cls, path: Path) -> "AnnotationFile":
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise DataError(f"{path}: this annotation file does not exist; name it with {FILE_OPTIONS}") from None
        except OSError as error:
            raise DataError(
                f"{path}: this annotation file can't be read: {error.strerror}; name another with {FILE_OPTIONS}"
            ) from error
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise DataError(f"{path}: this is not JSON: {error.msg} at {where}; {EXPORT_AGAIN}") from None
        except (ValueError, RecursionError) as error:  # not text, or nested without end
            raise DataError(f"{path}: this is not JSON: {error}; {EXPORT_AGAIN}") from None
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise DataError(
                f"{path}: this is not a COCO annotation file: it holds a {kind}, not an object; {EXPORT_AGAIN}"
            )
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
        return cls(path, {section: content[section] for section in LISTS})

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

    def integers(self, section: str, field: str, least: int = -LARGEST_INTEGER) -> Int64[np.ndarray, " entries"]:
        def right(value: Any) -> bool:
            return type(value) is int and least <= value <= LARGEST_INTEGER

        expected = "a positive integer" if least == 1 else "an integer"
        return np.array(self.checked_column(section, field, right, expected), dtype=np.int64)

    def unique_integers(self, section: str, field: str) -> Int64[np.ndarray, " entries"]:
        values = self.integers(section, field)
        _, first = np.unique(values, return_index=True)
        if len(first) < len(values):
            index = int(np.setdiff1d(np.arange(len(values)), first)[0])
            raise self._wrong(
                section, index, field, int(values[index]), "an earlier entry has the same, give each its own"
            )
        return values

    def look_up(
        self, field: str, known: Int64[np.ndarray, " known"], section: str
    ) -> Int64[np.ndarray, " annotations"]:
        """Where the id in each annotation's `field` stands in `known`, the distinct ids of the entries of `section`."""
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
        values = [entry.get("iscrowd", 0) for entry in self.content["annotations"]]
        for index, value in enumerate(values):
            if not isinstance(value, int) or value not in (0, 1):
                raise self._wrong("annotations", index, "iscrowd", value, "must be 0 or 1")
        return np.array(values, dtype=np.bool_)

    def boxes(self) -> Float64[np.ndarray, "annotations 4"]:
        """x, y, width, height in pixels, as they stand in the file."""
        boxes = self.checked_column("annotations", "bbox", _is_box, "4 finite numbers: x, y, width, height")
        return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)

    def areas(self, boxes: Float64[np.ndarray, "annotations 4"]) -> Float64[np.ndarray, " annotations"]:
        """Areas in square pixels as they stand in the file; that of the box where there is none."""
        of_boxes = (boxes[:, 2] * boxes[:, 3]).tolist()
        stated = [entry.get("area") for entry in self.content["annotations"]]
        return np.array(
            [area if isinstance(area, int | float) else own for area, own in zip(stated, of_boxes, strict=True)],
            dtype=np.float64,
        )

    def _place(self, section: str, index: int, field: str) -> str:
        return f"{self.path}: {section}[{index}].{field}"

    def _wrong(self, section: str, index: int, field: str, value: Any, complaint: str) -> DataError:
        entry = self.content[section][index]
        whose = f" (annotation id {reprlib.repr(entry['id'])})" if section == "annotations" and "id" in entry else ""
        return DataError(f"{self._place(section, index, field)} is {reprlib.repr(value)}{whose}: {complaint}")


def _is_box(value: Any) -> bool:
    if type(value) is not list or len(value) != 4:
        return False
    for number in value:
        if type(number) is float:
            if not math.isfinite(number):
                return False
        elif type(number) is not int or abs(number) > LARGEST_INTEGER:
            return False
    return True
