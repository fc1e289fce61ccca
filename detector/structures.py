"""The values that travel between the stations. Shape, dtype, unit and coordinate frame of each are stated here, once.

Boxes are float32 xyxy in pixels, x to the right, y down, (0, 0) the outer corner of the top left pixel.
Two frames exist: the *original image* and the *network input* (after `images.letterbox` or augmentation).
Labels are contiguous, 0..C-1; `Categories` alone knows the dataset's own category ids.
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from detector.errors import ConfigError, printable

if TYPE_CHECKING:
    import supervision

BOX_DIGITS, SCORE_DIGITS = 3, 6
"""Decimals of boxes, in pixels, and of scores in the COCO results format."""


@dataclass(frozen=True)
class Categories:
    """The classes in label order: label `i` is the category with id `ids[i]` and name `names[i]`."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Targets:
    """What one image holds, in the network-input frame.

    boxes: (objects, 4) float32 xyxy pixels; labels: (objects,) int64 in 0..C-1;
    crowd_boxes: (crowds, 4) float32 xyxy pixels, `iscrowd` regions: neither objects nor background.
    """

    boxes: Float[Tensor, "objects 4"]
    labels: Int64[Tensor, " objects"]
    crowd_boxes: Float[Tensor, "crowds 4"]

    def to(self, device: torch.device) -> "Targets":
        return Targets(
            self.boxes.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.crowd_boxes.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Batch:
    """Images in the network-input frame with their targets.

    images: (batch, 3, height, width) uint8 RGB, 0..255; targets: one `Targets` per image;
    unreadable: one line for each image that was skipped because it could not be read;
    image_indices: the indices, in their split, of all the images that `images` are made of, mosaics of four.
    """

    images: UInt8[Tensor, "batch 3 height width"]
    targets: tuple[Targets, ...]
    unreadable: tuple[str, ...] = ()
    image_indices: tuple[int, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        targets = tuple(target.to(device) for target in self.targets)
        return replace(self, images=self.images.to(device, non_blocking=True), targets=targets)

    def pin_memory(self) -> "Batch":
        return replace(self, images=self.images.pin_memory())


class RawPredictions(NamedTuple):
    """What a model returns in training mode: logits, anchors running over P3, P4, P5, each row by row.

    boxes: (batch, 64, anchors): for each side (left, top, right, bottom) 16 logits over distances in strides;
    scores: (batch, classes, anchors): one logit a class.
    """

    boxes: Float[Tensor, "batch 64 anchors"]
    scores: Float[Tensor, "batch classes anchors"]


class AuxiliaryPredictions(NamedTuple):
    """What a model and the auxiliary branch that guides it in training return, for the same anchors."""

    main: RawPredictions
    auxiliary: RawPredictions


class GuidedPredictions(NamedTuple):
    """What a model returns in training beside a loss that does not come from labels, a mean over the images of the batch."""

    main: RawPredictions
    guidance: Float[Tensor, ""]


class Predictions(NamedTuple):
    """What a model returns in evaluation mode: every anchor's box and scores, before NMS.

    boxes: (batch, anchors, 4) xyxy pixels of the network input; scores: (batch, anchors, classes) in 0..1.
    """

    boxes: Float[Tensor, "batch anchors 4"]
    scores: Float[Tensor, "batch anchors classes"]


class Detection(NamedTuple):
    """One object: class name, score in 0..1, box as x1, y1, x2, y2 in pixels of the original image."""

    name: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, in the frame of the original image, best score first.

    boxes: (n, 4) float32 xyxy pixels, inside the image; scores: (n,) float32 in 0..1; labels: (n,) int64 in 0..C-1;
    track_ids: (n,) int64, the same for one object in all frames of a video, from 1, 0 without a track; None if not tracked.
    A number picks a `Detection`; a slice, a mask or a list of numbers picks `Detections`.
    """

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    categories: Categories
    track_ids: Int64[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int | np.integer) -> Detection: ...

    @overload
    def __getitem__(self, index: slice | Tensor | np.ndarray | Sequence[int]) -> "Detections": ...

    def __getitem__(
        self, index: int | np.integer | slice | Tensor | np.ndarray | Sequence[int]
    ) -> "Detection | Detections":
        if not isinstance(index, slice) and np.ndim(index) == 0:
            index = operator.index(index)  # type: ignore[arg-type]
            left, top, right, bottom = self.boxes[index].tolist()
            name = self.categories.names[int(self.labels[index])]
            return Detection(name, float(self.scores[index]), (left, top, right, bottom))
        if isinstance(index, Tensor):
            # NumPy takes a tensor of one value, also a mask of one, for a number
            index = index.cpu().numpy()
        picked = torch.from_numpy(np.arange(len(self))[index].copy())
        track_ids = None if self.track_ids is None else self.track_ids[picked]
        return replace(
            self,
            boxes=self.boxes[picked],
            scores=self.scores[picked],
            labels=self.labels[picked],
            track_ids=track_ids,
        )

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        rows = [
            f"\n  {printable(name)} {score:.3f} ({', '.join(f'{side:.1f}' for side in box)})"
            for name, score, box in self
        ]
        return f"{len(self)} detections{':' if rows else ''}{''.join(rows)}"

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.categories.names[label] for label in self.labels.tolist()]

    def to_coco(self, image_id: int, categories: Categories | None = None) -> list[dict[str, Any]]:
        """Entries of the COCO results format: `bbox` is x, y, width, height in pixels, `category_id` that of the weights, or
        of `categories`, the same classes with other ids."""
        ids = (categories or self.categories).ids
        boxes = self.boxes.clone()
        boxes[:, 2:] -= boxes[:, :2]
        # of float32 what `round` gives, and many times faster: the products with powers of ten are exact
        rounded = boxes.double().numpy().round(BOX_DIGITS).tolist()
        scores = self.scores.double().numpy().round(SCORE_DIGITS).tolist()
        return [
            {"image_id": image_id, "category_id": ids[label], "bbox": box, "score": score}
            for box, score, label in zip(rounded, scores, self.labels.tolist(), strict=True)
        ]

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`, a row for each detection: name, score, x1, y1, x2, y2.

        Raises ConfigError if pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped,unused-ignore]
        except ImportError as error:
            raise ConfigError(f"to_pandas needs the package {error.name}: pip install pandas") from error
        return pandas.DataFrame(
            [(name, score, *box) for name, score, box in self], columns=["name", "score", "x1", "y1", "x2", "y2"]
        )

    def to_supervision(self) -> "supervision.Detections":
        """Convert for the package `supervision`: `class_id` is the label, `data["class_name"]` the class's name,
        `tracker_id` the track's number.

        Raises ConfigError if it is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ConfigError(f"to_supervision needs the package {error.name}: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            tracker_id=None if self.track_ids is None else self.track_ids.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )
