"""What the tests of batches on each engine share."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from lively_model import lively_model

from detector.batch.plan import PARTS, Part, cut, list_images
from detector.batch.work import Task
from detector.config import BatchConfig
from detector.demo.scenes import make_dataset
from detector.inference import streaming
from detector.inference.detector import Detector
from detector.structures import Categories
from detector.weights.files import WeightsInfo, save_weights

CATEGORIES = Categories((3, 7, 90), ("cat", "dog", "cow"))


def make_weights(path: Path) -> Path:
    save_weights(path, lively_model(len(CATEGORIES)), WeightsInfo("yolo11n", CATEGORIES, 96, {}, {}, "CC0-1.0"))
    return path


def make_images(root: Path) -> Path:
    """Ten drawn images and a damaged one."""
    make_dataset(root, seed=1, train=10, val=3, test=3)
    (root / "train" / "damaged.jpg").write_bytes(b"no image")
    return root / "train"


def config_of(images: Path, weights: Path, out: Path, **options: Any) -> BatchConfig:
    given = {"part_size": 3, "workers": 1, "device": "cpu"} | options
    return BatchConfig(sources=[str(images)], weights=str(weights), out=str(out), **given)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def parts_of(task: Task) -> list[Part]:
    return cut(list_images(task.config.sources), task.config.part_size)


def task_like(undisturbed: Path, config: BatchConfig, kind: type[Task] = Task) -> Task:
    """A task whose folder is claimed with the settings of the undisturbed one."""
    settings = (undisturbed / "settings.json").read_text()
    (Path(config.out) / PARTS).mkdir(parents=True)
    (Path(config.out) / "settings.json").write_text(settings)
    return kind(config, json.loads(settings))


@dataclass(frozen=True)
class PoisonTask(Task):
    """The decoder ends the process at one image."""

    def load(self) -> Detector:
        read = streaming.read_image

        def read_image(path: Path) -> Any:
            if path.name == sorted(Path(self.config.sources[0]).iterdir())[4].name:
                os._exit(11)
            return read(path)

        streaming.read_image = read_image  # type: ignore[assignment]
        return super().load()


def require_quarantined(out: Path, undisturbed: Path, poison: str, line: str) -> None:
    """Only the row of the poison image differs, and it is the error."""
    found, expected = content(out), content(undisturbed)
    (changed,) = [name for name in expected if found[name] != expected[name]]
    assert found.keys() == expected.keys()
    rows, sound = (pq.read_table(folder / changed).to_pylist() for folder in (out, undisturbed))
    assert rows == [_error_row(row, line) if row["image"] == poison else row for row in sound]


def _error_row(row: dict[str, Any], line: str) -> dict[str, Any]:
    return dict.fromkeys(row) | {"image": row["image"], "image_id": row["image_id"], "error": line}
