"""What a `Detector` asks of a network, whatever runs it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from detector.errors import ConfigError
from detector.images.input_size import InputSize
from detector.models.postprocess import NmsResult, select
from detector.structures import Predictions
from detector.utils.device import resolve_device


class Selection(NamedTuple):
    """Settings of postprocessing: see `postprocess.select`."""

    conf: float
    iou: float
    max_detections: int
    class_filter: Int64[Tensor, " labels"] | None
    class_conf: Float[Tensor, " classes"] | None = None

    @property
    def by_class(self) -> bool:
        """Whether detections count by their class, so that a file that knows one `conf` for all must give them all."""
        return self.class_filter is not None or self.class_conf is not None


class Runtime(ABC):
    """A network and what runs it.

    device: what it runs on; input_size: the only size of its input, None if it takes any multiples of 32;
    letterboxes_inputs: whether it takes images of any size and letterboxes them itself; max_batch_size: inputs at a time,
    None for any number; num_classes: how many the network scores, None where the file does not tell (with NMS inside);
    survives_fork: whether a process forked later can use it, too.
    """

    device = torch.device("cpu")
    input_size: InputSize | None = None
    letterboxes_inputs = False
    max_batch_size: int | None = None
    num_classes: int | None = None
    survives_fork = False

    @abstractmethod
    def detect(self, inputs: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[NmsResult]:
        """Detections in each input (RGB), in pixels of the input, on the CPU."""


def require_cpu(path: Path, device: str | torch.device) -> None:
    """Raise ConfigError if a file that runs on the CPU only is asked for on another device."""
    if device != "auto" and resolve_device(device).type != "cpu":
        raise ConfigError(f"device: {path} runs on the CPU here; use --device cpu")


class HeadRuntime(Runtime):
    """A runtime whose network ends at the head: every anchor's box and scores."""

    @abstractmethod
    def predict(self, inputs: UInt8[Tensor, "batch 3 height width"]) -> Predictions: ...

    def detect(self, inputs: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[NmsResult]:
        return select(self.predict(inputs), *selection)


def channels_last(inputs: UInt8[Tensor, "batch 3 height width"]) -> UInt8[Tensor, "batch height width 3"]:
    """Bring inputs into the layout of exported files; no copy where the inputs come from `Letterbox.apply`."""
    return inputs.permute(0, 2, 3, 1).contiguous()


def apply_class_filter(found: NmsResult, selection: Selection) -> NmsResult:
    """Keep the detections of the classes that `selection` asks for, with the score that their class needs, no more than it
    allows."""
    boxes, scores, labels, _ = found
    if selection.class_filter is not None:
        mine = torch.isin(labels, selection.class_filter)
        boxes, scores, labels = boxes[mine], scores[mine], labels[mine]
    if selection.class_conf is not None:
        own = labels.clamp(0, len(selection.class_conf) - 1)  # one beyond them is refused later
        enough = scores >= selection.class_conf[own]
        boxes, scores, labels = boxes[enough], scores[enough], labels[enough]
    count = selection.max_detections
    return NmsResult(boxes[:count], scores[:count], labels[:count])


def fixed_input_size(sides: Sequence[int | str]) -> InputSize | None:
    """The size of an input from its height and width; None if they are open."""
    height, width = sides
    return InputSize(height, width) if isinstance(height, int) and isinstance(width, int) else None
