"""The paths that images get in the dataset that is written."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from detector.data.conversion.content import LabeledImage, Report
from detector.errors import DataError
from detector.images.read import IMAGE_SUFFIXES

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\ufffe\uffff]")
"""Characters that XML, YAML or a list of names, one a line, can't hold."""


class Names:
    """Hands out paths of which no two are one on any disk: not by upper and lower case or composed letters alone.

    by_stem: two that differ in their suffix count as one, since they would share one label file.
    """

    def __init__(self, by_stem: bool, report: Report) -> None:
        self._by_stem, self._report, self._taken = by_stem, report, set[str]()

    def free(self, name: str) -> str:
        """`name`, or with -2, -3 and so on before its suffix if another image has it, which is reported."""
        path, chosen, number = PurePosixPath(name), name, 1
        while self._key(chosen) in self._taken:
            number += 1
            chosen = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
        self._taken.add(self._key(chosen))
        self._report.lost["names of images that another image has, written as NAME-2 and so on"] += number > 1
        return chosen

    def _key(self, name: str) -> str:
        path = PurePosixPath(name)
        return unicodedata.normalize("NFC", (path.with_suffix("") if self._by_stem else path).as_posix()).casefold()


def require_suffixes(images: Iterable[LabeledImage]) -> None:
    """Raise DataError for an image that the readers of labels beside images would not find."""
    for image in images:
        path = PurePosixPath(image.name)
        if path.suffix.lower() not in IMAGE_SUFFIXES or any(part.startswith(".") for part in path.parts):
            raise DataError(
                f"{image.path}: only COCO can name such a file: without a suffix of images such as .jpg, or hidden; rename it"
            )


def require_text(name: str, what: str, remedy: str) -> None:
    """Raise DataError for a name that the files to write can't hold."""
    if CONTROL.search(name) or name != name.strip() or not name:
        raise DataError(f"{what} {name!r} can't be written in this format: {remedy}")


def folder_of(root: Path, name: str) -> Path:
    """The folder of a path below `root`, made if need be."""
    folder = (root / name).parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder
