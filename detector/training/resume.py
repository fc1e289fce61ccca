"""What a run is made of, kept in its checkpoint: a resumed run must be of the same data and the same settings."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detector.config import TrainConfig
from detector.data.coco import CocoImages
from detector.errors import ConfigError, DataError
from detector.training.distributed import World
from detector.training.logs import processor_name

MAY_CHANGE = ("data", "out", "weights", "resume", "train.device", "train.checkpoint_minutes", "train.cache_gb")
MAY_CHANGE_SECTIONS = ("paths.", "loader.")


def may_change(name: str) -> bool:
    """Whether a setting says where things are or how they are fetched, not what comes out."""
    return name in MAY_CHANGE or name.startswith(MAY_CHANGE_SECTIONS)


def origin_of(
    config: TrainConfig, train_images: CocoImages, val_images: CocoImages, device: torch.device, world: World
) -> dict[str, Any]:
    """Settings by dotted name, fingerprints of the data, and the machine."""
    return {
        "settings": flat(dataclasses.asdict(config)),
        "on_cuda": device.type == "cuda",
        "data": {"train": fingerprint(train_images), "val": fingerprint(val_images)},
        "machine": {
            "processor": processor_name(device),
            "threads": torch.get_num_threads(),
            "processes": world.size,
            "torch": str(torch.__version__),
        },
    }


def fingerprint(images: CocoImages) -> str:
    """SHA-256 over the annotation file and the names and lengths (in bytes) of the pictures."""
    digest = hashlib.sha256(images.annotations_path.read_bytes())
    for index in range(len(images)):
        path = images.path(index)
        digest.update(f"{images.file_name(index)} {path.stat().st_size}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def require_same(then: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raise ConfigError or DataError with the difference if the run in `out` was of other settings or other data."""
    old, new = then["settings"], now["settings"]
    differences = [
        f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not may_change(name)
    ]
    if differences:
        raise ConfigError(
            f"--resume: the settings are not those of the run in {out}: {'; '.join(differences)};"
            " leave them as they were, or start a new run from its weights: --weights best.safetensors --out OTHER"
        )
    for split, before in then["data"].items():
        if now["data"][split] != before:
            path = new["data"] or new[f"paths.{split}_json"]
            raise DataError(
                f"--resume: the {split} split of {path} is not what the run in {out} was started with (the annotation file"
                " or the length of a picture differs); put the old data back, or start a new run from its weights"
            )


def inexact(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why the resumed run will not give the same bits as one that was never interrupted; empty if it will."""
    old, new = then["machine"], now["machine"]
    differences = [f"{name} {old[name]} before, {new[name]} now" for name in old if old[name] != new[name]]
    if now["on_cuda"] and not now["settings"]["train.deterministic"]:
        differences.append("on CUDA, which repeats a run only with train.deterministic")
    if not differences:
        return ""
    return f"resuming, though not bit for bit as the uninterrupted run would go on: {', '.join(differences)}"
