"""What a `Detector` asks of a network, whatever runs it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from detector.geometry.frame_size import FrameSize
from detector.runtimes.postprocess import select
from detector.structures import Predictions

Boxes: TypeAlias = tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], Int64[Tensor, " n"]]
"""xyxy pixels of the frame, scores and labels of one picture's detections, best first."""


class Selection(NamedTuple):
    """Which anchors are detections: see `postprocess.select`."""

    conf: float
    iou: float
    max_detections: int
    wanted: Int64[Tensor, " wanted"] | None


class Runtime(ABC):
    """A network and what runs it.

    device: what it runs on; frame: the only size of its input, None if it takes any multiples of 32; places_pictures: it takes
    pictures of any size and letterboxes them itself; most: how many frames it takes at a time, None for any number.
    """

    device = torch.device("cpu")
    frame: FrameSize | None = None
    places_pictures = False
    most: int | None = None

    @abstractmethod
    def detect(self, frames: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[Boxes]:
        """The detections in each frame (RGB), in pixels of the frame, on the CPU."""


class HeadRuntime(Runtime):
    """A runtime whose network ends at the head: every anchor's box and scores."""

    @abstractmethod
    def predict(self, frames: UInt8[Tensor, "batch 3 height width"]) -> Predictions: ...

    def detect(self, frames: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[Boxes]:
        return [(found.boxes, found.scores, found.labels) for found in select(self.predict(frames), *selection)]


def as_pixels_last(frames: UInt8[Tensor, "batch 3 height width"]) -> UInt8[Tensor, "batch height width 3"]:
    """As files take them; no copy where the frames come from `Letterbox.image`."""
    return frames.permute(0, 2, 3, 1).contiguous()


def only_wanted(found: Boxes, selection: Selection) -> Boxes:
    """Of the detections of all labels those that `selection` wants, as many as it allows."""
    boxes, scores, labels = found
    if selection.wanted is not None:
        mine = torch.isin(labels, selection.wanted)
        boxes, scores, labels = boxes[mine], scores[mine], labels[mine]
    return boxes[: selection.max_detections], scores[: selection.max_detections], labels[: selection.max_detections]


def fixed_frame(sides: Sequence[int | str]) -> FrameSize | None:
    """Of an input's height and width; None if they are open."""
    height, width = sides
    return FrameSize(height, width) if isinstance(height, int) and isinstance(width, int) else None
