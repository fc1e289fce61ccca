"""What is done to a training image once it is placed: fliplr, colors, and the albumentations transforms of the configuration."""

import difflib
import math
import os
import warnings
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from detector.config import AugmentConfig
from detector.data.sample import Sample
from detector.errors import ConfigError

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer version when imported
import albumentations

CROWD = -1
"""Label under which crowd regions travel through the pipeline, so that they move with the image."""

TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""RGB to luma and two axes of color, which are 0 for gray. Source: the NTSC color space (FCC, 1953)."""


def flip_and_adjust_colors(sample: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """The sample flipped and with other colors, as `config` says; all randomness comes from `rng`."""
    flipped = rng.random() < config.fliplr
    turn = rng.uniform(-config.hue, config.hue)
    saturation = rng.uniform(1 - config.saturation, 1 + config.saturation)
    brightness = rng.uniform(1 - config.brightness, 1 + config.brightness)
    image = cv2.transform(sample.image, color_matrix(turn, saturation, brightness))
    if not flipped:
        return Sample(image, sample.boxes, sample.labels, sample.crowd_boxes)
    width = image.shape[1]
    boxes, crowd_boxes = (_flip_boxes(each, width) for each in (sample.boxes, sample.crowd_boxes))
    return Sample(cv2.flip(image, 1), boxes, sample.labels, crowd_boxes)


def color_matrix(turn: float, saturation: float, brightness: float) -> Float64[np.ndarray, "3 3"]:
    """RGB to RGB: colors turned by `turn` circles and multiplied by `saturation`, with luma unchanged; then all multiplied
    by `brightness`. One matrix and one rounding, where steps of their own would round and clip after each."""
    sine, cosine = saturation * math.sin(2 * math.pi * turn), saturation * math.cos(2 * math.pi * turn)
    colors = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.asarray(brightness * np.linalg.inv(TO_YIQ) @ colors @ TO_YIQ)


def _flip_boxes(boxes: Float32[np.ndarray, "n 4"], width: int) -> Float32[np.ndarray, "n 4"]:
    flipped = boxes.copy()
    flipped[:, [0, 2]] = width - boxes[:, [2, 0]]
    return flipped


class Pipeline:
    """albumentations transforms on images with boxes (xyxy pixels, of the image before and after)."""

    def __init__(self, transforms: list[dict[str, dict[str, Any]]]) -> None:
        self._compose = albumentations.Compose(
            [_build(i, entry) for i, entry in enumerate(transforms)],
            bbox_params=albumentations.BboxParams(
                format="pascal_voc", label_fields=["labels"], clip=True, filter_invalid_bboxes=True
            ),
        )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Transform a sample; all randomness comes from `rng`."""
        self._compose.set_random_seed(int(rng.integers(2**31)))
        crowd_labels = np.full(len(sample.crowd_boxes), CROWD, dtype=np.int64)
        try:
            result = self._compose(
                image=sample.image,
                bboxes=np.concatenate((sample.boxes, sample.crowd_boxes)),
                labels=np.concatenate((sample.labels, crowd_labels)),
            )
        except Exception as error:  # an argument that is only used now
            raise ConfigError(f"augment.transforms: {type(error).__name__} {error}; correct their arguments") from error
        if result["image"].shape != sample.image.shape:
            shapes = f"from {sample.image.shape} to {result['image'].shape}"
            raise ConfigError(f"augment.transforms change the image's shape {shapes}: leave out what crops or resizes")
        boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        labels = np.asarray(result["labels"], dtype=np.int64).reshape(-1)
        crowd = labels == CROWD
        return Sample(np.ascontiguousarray(result["image"]), boxes[~crowd], labels[~crowd], boxes[crowd])


def _build(index: int, entry: dict[str, dict[str, Any]]) -> albumentations.BasicTransform:
    if len(entry) != 1:
        raise ConfigError(f"augment.transforms[{index}] has {len(entry)} names: write one transform an entry")
    ((name, arguments),) = entry.items()
    transform = getattr(albumentations, name, None)
    if not (isinstance(transform, type) and issubclass(transform, albumentations.BasicTransform)):
        known = [n for n in dir(albumentations) if isinstance(getattr(albumentations, n), type)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"augment.transforms[{index}]: albumentations has no transform {name!r}{hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an argument it does not know is only warned of
            return transform(**(arguments or {}))
    except Exception as error:  # whatever the transform makes of an argument of another type
        raise ConfigError(f"augment.transforms[{index}], {name}: {error}") from error
