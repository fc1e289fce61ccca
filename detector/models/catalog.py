"""The models by name."""

from collections.abc import Callable
from functools import partial

from detector.errors import ConfigError
from detector.models import yolov9
from detector.models.base import DetectionModel
from detector.models.yolo11 import SCALES, YOLO11
from detector.models.yolo11_cross import YOLO11Cross

PUBLISHED: dict[str, Callable[[int], DetectionModel]] = {
    **{f"yolo11{letter}": partial(YOLO11, scale) for letter, scale in SCALES.items()},
    **{f"yolov9{letter}": partial(yolov9.YOLOv9, yolov9.SCALES[letter]) for letter in "tsmc"},
    "yolov9e": partial(yolov9.YOLOv9E, yolov9.SCALES["e"]),
}
"""Networks of which there are published checkpoints."""

MODELS: dict[str, Callable[[int], DetectionModel]] = {
    **PUBLISHED,
    **{f"yolo11{letter}-cross": partial(YOLO11Cross, scale) for letter, scale in SCALES.items()},
}


def create_model(name: str, num_classes: int = 80) -> DetectionModel:
    """A model with random weights, in training mode. Raises ConfigError for an unknown name, listing the known ones."""
    if name not in MODELS:
        raise ConfigError(f"--model: there is no model {name!r}; choose one of {', '.join(MODELS)}")
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}: a detector needs at least one class")
    return MODELS[name](num_classes)
