"""A finished run as its folder tells it: configuration, metrics, best weights, dataset."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.config import AugmentConfig, LossConfig, PathsConfig, RayConfig, TrainConfig, TrainLoopConfig
from detector.data.coco import CocoDataset
from detector.data.load import load_split
from detector.data.remote_images import is_elsewhere
from detector.errors import ConfigError, DataError
from detector.models.base import DetectionModel
from detector.training.logs import read_environment, read_lines
from detector.utils.yaml_file import read_yaml
from detector.weights.files import WeightsInfo, load_weights

SECTION_TYPES = {
    "train": TrainLoopConfig,
    "augment": AugmentConfig,
    "loss": LossConfig,
    "paths": PathsConfig,
    "ray": RayConfig,
}


@dataclass(frozen=True)
class RunRecord:
    """rows: those of metrics.jsonl, one at least; model, info: best.safetensors; environment: environment.json, or empty."""

    folder: Path
    config: TrainConfig
    rows: list[dict[str, Any]]
    model: DetectionModel
    info: WeightsInfo
    environment: dict[str, Any]
    train_dataset: CocoDataset
    val_dataset: CocoDataset

    @property
    def best_epoch(self) -> int:
        return int(self.info.training["epoch"])


def read_run(folder: Path, data: str | None, paths: PathsConfig = PathsConfig()) -> RunRecord:  # noqa: B008, it is frozen
    """What is in `folder`; data: where the dataset is now if not where it was; paths: the same, what is given of it. Raises
    DetectorError kinds."""
    for name in ("config.yaml", "best.safetensors"):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder}: there is no {name}, so no run that has finished an epoch; give the folder that --out named"
            )
    config = read_config(folder / "config.yaml")
    if data is not None:
        config = dataclasses.replace(config, data=data, paths=paths)
    else:
        given = {name: value for name, value in vars(paths).items() if value != getattr(PathsConfig(), name)}
        config = dataclasses.replace(config, paths=dataclasses.replace(config.paths, **given))
        require_data(folder, config)
    rows = read_lines(folder / "metrics.jsonl", "epoch", "learning_rate", "images_per_second", "seconds")
    if not rows:
        raise DataError(
            f"{folder}: metrics.jsonl, the figures of each epoch, is missing or has none; restore it from a copy, or, if the"
            f" run is not finished, go on with --resume {folder}"
        )
    model, info = load_weights(folder / "best.safetensors")
    train = load_split(config.data, "train", info.categories, config.paths, config.augment.needs_outlines)
    val = load_split(config.data, "val", info.categories, config.paths)
    return RunRecord(folder, config, rows, model, info, read_environment(folder), train, val)


def read_config(path: Path) -> TrainConfig:
    """The configuration that training wrote. Raises ConfigError naming the file."""
    try:
        content = read_yaml(path)
        sections = {name: kind(**content[name]) for name, kind in SECTION_TYPES.items()}
        return TrainConfig(**{**with_tuple(content), **sections})
    except (TypeError, KeyError, ConfigError) as error:
        raise ConfigError(f"{path}: not the configuration that training wrote ({error}); fix it there") from error


def with_tuple(content: dict[str, Any]) -> dict[str, Any]:
    """YAML has lists only; [height, width] is a tuple."""
    size = content["image_size"]
    return {**content, "image_size": tuple(size) if isinstance(size, list) else size}


def require_data(folder: Path, config: TrainConfig) -> None:
    """Raise DataError if the dataset has moved since."""
    paths = config.paths
    named = {
        "--data FOLDER": config.data,
        "--paths.train_json": paths.train_json,
        "--paths.val_json": paths.val_json,
        "--paths.train_images": paths.train_images,
        "--paths.val_images": paths.val_images,
    }
    for option, path in named.items():
        if path is not None and not (option.endswith("images") and is_elsewhere(path)) and not Path(path).exists():
            raise DataError(f"{path}: this dataset of {folder} is no longer there; say with {option} where it is now")
