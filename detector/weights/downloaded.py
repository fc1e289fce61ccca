"""The cache folder: a folder for each published weights that `detector weights get` has imported, with a record beside them."""

import json
from pathlib import Path

from detector.errors import WeightsError
from detector.utils.file_cache import cache_home
from detector.utils.fileio import file_sha256
from detector.weights.published.table import TABLE


def cache_folder() -> Path:
    """The cache folder's part for weights."""
    return cache_home() / "weights"


def weights_path(name: str) -> Path:
    """Where the weights of this name are, or will be."""
    return cache_folder() / name / f"{name}.safetensors"


def record_path(name: str) -> Path:
    """Where it is noted what they were made from."""
    return weights_path(name).with_suffix(".json")


def read_record(name: str) -> dict[str, str]:
    """The source of the checkpoint, its `sha256`, and that of the weights, `weights_sha256`; empty if it is missing or damaged."""
    try:
        record = json.loads(record_path(name).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def is_whole(name: str) -> bool:
    """Whether the weights are here as they were imported."""
    path = weights_path(name)
    return path.is_file() and file_sha256(path) == read_record(name).get("weights_sha256")


def find_downloaded(name: str) -> Path:
    """The weights of a name in `TABLE`. Raises WeightsError with the command that gets them, if they are not here or damaged."""
    path = weights_path(name)
    if not path.is_file():
        known = TABLE[name]
        raise WeightsError(
            f"--weights: {name} is not on this machine yet; get it with: detector weights get {name}"
            f" (about {known.megabytes} MB, {known.license} license)"
        )
    if not is_whole(name):
        raise WeightsError(
            f"{path}: damaged, its checksum is not the noted one; repair it with: detector weights get {name}"
        )
    return path
