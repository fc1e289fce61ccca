"""What a run is made of, kept in its checkpoint: a resumed run must be of the same data and the same settings."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detector.config import RESUME_MAY_CHANGE, TrainConfig
from detector.data.coco import CocoDataset
from detector.errors import ConfigError, DataError
from detector.training.distributed import World
from detector.training.logs import processor_name

MOVED = {"train.loggers"}
"""Former names of settings that may change."""


def may_change(name: str) -> bool:
    """Whether a setting, by its dotted name, says where things are or how they are fetched, not what comes out."""
    if name in MOVED:
        return True
    kind: Any = TrainConfig
    for part in name.split("."):
        known = {each.name: each for each in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
        if part not in known:
            return False
        if known[part].metadata == RESUME_MAY_CHANGE:
            return True
        kind = known[part].default_factory
    return False


def run_provenance(
    config: TrainConfig, train_dataset: CocoDataset, val_dataset: CocoDataset, device: torch.device, world: World
) -> dict[str, Any]:
    """Settings by dotted name, fingerprints of the data, and the machine."""
    return {
        "settings": flat(config),
        "on_cuda": device.type == "cuda",
        "data": {"train": train_dataset.fingerprint(), "val": val_dataset.fingerprint()},
        "machine": {
            "processor": processor_name(device),
            "threads": torch.get_num_threads(),
            "processes": world.size,
            "torch": str(torch.__version__),
        },
    }


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Settings of a configuration by dotted name; a value that is a dict, such as one per model size, stays whole."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            result |= flat(value, f"{prefix}{field.name}.")
        else:
            result[prefix + field.name] = value
    return result


def require_same(then: Mapping[str, Any], now: Mapping[str, Any], out: Path | str) -> None:
    """Raise ConfigError or DataError with the difference if the run in `out` was of other settings or other data."""
    defaults = flat(TrainConfig())
    old, new = (defaults | each["settings"] for each in (then, now))  # of before a setting existed: its default
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
                f"--resume: the {split} split of {path} is not what the run in {out} was started with (the annotations"
                " or the length of an image differ); put the old data back, or start a new run from its weights"
            )


def require_processes(then: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raise ConfigError if the run in `out` was of another number of processes, unless train.elastic."""
    before, processes = then["machine"]["processes"], now["machine"]["processes"]
    if processes != before and not now["settings"]["train.elastic"]:
        raise ConfigError(
            f"--resume: the run in {out} was of {before} processes, this is one of {processes}: start as many as before, or"
            " allow another number with --train.elastic true, after which the bits differ"
        )


def inexact(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why the resumed run will not give the same bits as one that was never interrupted; empty if it will."""
    old, new = then["machine"], now["machine"]
    differences = [f"{name} {old[name]} before, {new[name]} now" for name in old if old[name] != new[name]]
    drawn = [each["settings"].get("augment.device", "cpu") for each in (then, now)]
    if drawn[0] != drawn[1]:
        differences.append(f"augment.device {drawn[0]} before, {drawn[1]} now")
    if now["on_cuda"] and not now["settings"]["train.deterministic"]:
        differences.append("on CUDA, which repeats a run only with train.deterministic")
    if not differences:
        return ""
    return f"resuming, though not bit for bit as the uninterrupted run would go on: {', '.join(differences)}"
