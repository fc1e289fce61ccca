"""The models by name."""

from collections.abc import Callable
from functools import partial

from detector.errors import ConfigError
from detector.models import yolov9
from detector.models.base import DetectionModel
from detector.models.yolo11 import SCALES, YOLO11
from detector.models.yolo11_cross import YOLO11Cross

MAX_CLASS_WIDTH = 4096
"""Largest width of a class branch in channels; those by the published rule are far narrower."""

PUBLISHED: dict[str, Callable[[int, int | None], DetectionModel]] = {
    **{f"yolo11{letter}": partial(YOLO11, scale) for letter, scale in SCALES.items()},
    **{f"yolov9{letter}": partial(yolov9.YOLOv9, yolov9.SCALES[letter]) for letter in "tsmc"},
    "yolov9e": partial(yolov9.YOLOv9E, yolov9.SCALES["e"]),
}
"""Networks of which there are published checkpoints."""

MODELS: dict[str, Callable[[int, int | None], DetectionModel]] = {
    **PUBLISHED,
    **{f"yolo11{letter}-cross": partial(YOLO11Cross, scale) for letter, scale in SCALES.items()},
}


def create_model(name: str, num_classes: int = 80, class_width: int | None = None) -> DetectionModel:
    """A model with random weights, in training mode.

    class_width: channels of the head's class branches where they differ from the published rule, as in imported weights.
    Raises ConfigError for an unknown name, listing the known ones, and for numbers that no model has.
    """
    if name not in MODELS:
        raise ConfigError(f"--model: there is no model {name!r}; choose one of {', '.join(MODELS)}")
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}: a detector needs at least one class")
    if class_width is not None and not 1 <= class_width <= MAX_CLASS_WIDTH:
        raise ConfigError(f"class_width is {class_width}: give channels from 1 to {MAX_CLASS_WIDTH}, or None")
    return MODELS[name](num_classes, class_width)
