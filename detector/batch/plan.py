"""What is to be done: the images by number, cut into parts, each with a file whose name says what it was made of."""

import glob
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detector.batch.folder import Folder
from detector.batch.table import read_paths
from detector.config import BatchConfig, names_in
from detector.errors import DataError, WriteError, without_secrets
from detector.formats.table import format_of
from detector.images.remote import WEB, find_remote
from detector.inference.sources import find_sources, is_url
from detector.utils.fileio import file_sha256
from detector.utils.stores import is_remote
from detector.weights.shipped import find_weights

SETTINGS = "settings.json"
PARTS = "parts"
"""Subfolder of the parts, so that the tools that read a folder of Parquet find nothing else in it."""
LISTS = (".txt", ".parquet")
"""Endings of files that name images."""
FORMAT = 1
"""Version of files and settings; another one is refused."""


class Part(NamedTuple):
    """Images that belong together: their paths, and the id of the first; the next ones have the next ids."""

    first_id: int
    paths: tuple[str, ...]

    def halves(self) -> tuple["Part", "Part"]:
        middle = len(self.paths) // 2
        return Part(self.first_id, self.paths[:middle]), Part(self.first_id + middle, self.paths[middle:])


class Job(NamedTuple):
    """A part, or a piece of one on which workers have died; whoever does a whole part publishes it."""

    part: Part
    piece: Part

    @property
    def whole(self) -> bool:
        return self.piece == self.part


def text_of(path: str) -> str:
    """A path as text, a URL without its secrets; what of a file's name is no text becomes \\udc80 and the like."""
    return without_secrets(path).encode("utf-8", "backslashreplace").decode("utf-8")


def list_images(names: Sequence[str]) -> list[str]:
    """The paths of all images, in the order given, each once.

    A name is what `find_sources` or `find_remote` takes, a text file (.txt) with a path in each line, a Parquet file (.parquet)
    with a column `path`, or a glob of such. What a list names is not looked for, and web servers are not asked: an image that is
    missing becomes a row with the error. Raises DataError for what is no image: videos, cameras and streams.
    """
    found: dict[str, None] = {}
    for name in names:
        path = Path(name)
        if lists := _lists(path):
            listed = [each for one in lists for each in _paths_in(one)]
            if url := next((each for each in listed if is_url(each) and not WEB.match(each)), None):
                raise DataError(f"{name}: {without_secrets(url)} is a stream; detector batch takes images")
            if not listed:
                raise DataError(f"{name}: this list holds no path")
            found |= dict.fromkeys(listed)
            continue
        if WEB.match(name):  # detector infer asks the server what it is
            found[name] = None
            continue
        if is_remote(name) and _suffix(path) in LISTS:
            raise DataError(f"{name}: a list of images must be a file of this machine; download it and name the file")
        if is_remote(name) or _suffix(path) == ".tar":
            found |= dict.fromkeys(find_remote(name))
            continue
        sources = [] if is_url(name) else find_sources([name])
        if not sources or sources[0].camera is not None:
            raise DataError(f"{name}: detector batch takes images; detector infer takes cameras and streams")
        if video := next((source.name for source in sources if source.kind == "video"), None):
            raise DataError(f"{video}: is a video; detector batch takes image files, detector infer takes videos")
        found |= dict.fromkeys(source.name for source in sources)
    return list(found)


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _lists(path: Path) -> list[Path]:
    """The lists that a name stands for: itself, those in a folder of Parquet files as Spark writes it, those of a glob."""
    if _suffix(path) not in LISTS:
        return []
    if path.is_dir():
        return sorted(path.glob("*.parquet"))
    return [path] if path.is_file() else sorted(Path(each) for each in glob.iglob(str(path), recursive=True))  # noqa: PTH207


def _paths_in(path: Path) -> list[str]:
    return read_paths(path) if _suffix(path) == ".parquet" else _lines(path)


def _lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        return [line for each in file if (line := each.rstrip("\n")).strip()]


def cut(images: Sequence[str], part_size: int) -> list[Part]:
    """The plan: parts of that many images, the last one of what is left; ids count from 1."""
    starts = range(0, len(images), part_size)
    return [Part(start + 1, tuple(images[start : start + part_size])) for start in starts]


def settings_of(config: BatchConfig, images: Sequence[str]) -> dict[str, Any]:
    """All that the rows depend on, as JSON has it. Raises WeightsError if there are no such weights."""
    size = config.image_size
    return {
        "format": FORMAT,
        "weights_sha256": weights_sha256(config.weights),
        "image_size": list(size) if isinstance(size, tuple) else size,
        "conf": "that of the weights" if config.conf is None else config.conf,
        "iou": config.iou,
        "max_detections": config.max_detections,
        "classes": None if config.classes is None else names_in(config.classes),
        "images": len(images),
        "images_sha256": _sha256([text_of(image) for image in images]),
        "part_size": config.part_size,
    }


def weights_sha256(weights: str) -> str:
    """The SHA-256 of a weights file or an exported one, with what lies beside it for OpenVINO."""
    path = Path(weights)
    if format_of(path) is None or not path.is_file():
        return file_sha256(find_weights(path))
    numbers = path.with_suffix(".bin")
    if path.suffix.lower() != ".xml" or not numbers.is_file():
        return file_sha256(path)
    return _sha256([file_sha256(path), file_sha256(numbers)])


def claim(folder: Folder, settings: dict[str, Any]) -> None:
    """Write the settings into the folder. Raises WriteError if it has those of other results."""
    if folder.put_json_if_absent(SETTINGS, settings):
        return
    there = read_settings(folder)
    for name, value in settings.items():
        if there.get(name) != value:
            raise WriteError(
                f"--out: {folder} holds results of another {name} ({there.get(name)}, now {value}); give the same again or"
                " choose another --out"
            )


def read_settings(folder: Folder) -> dict[str, Any]:
    """The settings of the results in a folder. Raises DataError if there are none."""
    try:
        with folder.open(SETTINGS) as file:
            settings = json.load(file)
    except FileNotFoundError:
        raise DataError(f"{folder}: holds no results of detector batch ({SETTINGS} is missing)") from None
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or settings.get("format") != FORMAT or type(settings.get("images")) is not int:
        raise DataError(
            f"{folder}/{SETTINGS}: damaged or of another version; choose another folder, or remove this one"
        )
    return settings


def part_name(settings: dict[str, Any], part: Part) -> str:
    """The name of a part's file, which is done when it is there: a hash of settings, weights and paths."""
    return f"{_sha256([settings, part.first_id, [text_of(path) for path in part.paths]])}.parquet"


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
