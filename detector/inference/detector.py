"""`Detector`: pictures in, `Detections` out; the one way from a picture to boxes, used by infer, evaluate and training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import PIL.Image
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from detector.config import require_image_size
from detector.data.pictures import picture_from_bytes, picture_from_pil, read_picture
from detector.errors import ConfigError, DataError
from detector.geometry.frame_size import FrameSize
from detector.geometry.letterbox import Letterbox
from detector.models.base import DetectionModel
from detector.runtimes.base import Boxes, Runtime, Selection
from detector.runtimes.device import resolve_device
from detector.runtimes.eager import EagerRuntime
from detector.runtimes.load import load_runtime
from detector.structures import Categories, Detections

Picture: TypeAlias = str | Path | bytes | np.ndarray | PIL.Image.Image | Tensor
"""A file; the bytes of one; a uint8 array (height, width, 3) RGB or (height, width) grey; a PIL image; or a tensor
(3, height, width) RGB, uint8 or float in 0..1."""


class Detector:
    """Finds objects in pictures, with the same boxes whatever runs the network.

    `image_size`: side of the square network input in pixels, or (height, width); `conf`: lowest score kept; `iou`: overlap
    over which the weaker of two boxes of one class is dropped; `max_detections`: a picture; `classes`: names to keep, all
    if None.
    `batch`, pictures that the network sees at a time: on a CPU 1, so that a picture's boxes don't depend on its neighbours
    in a list, not by one bit; on CUDA `BATCH`, or as many as an exported file takes.
    """

    BATCH = 16

    def __init__(
        self,
        network: DetectionModel | Runtime,
        categories: Categories,
        image_size: int | tuple[int, int],
        *,
        conf: float = 0.25,
        iou: float = 0.7,
        max_detections: int = 300,
        classes: Sequence[str] | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        """Takes a copy of a model, to `device`; a runtime has its own.

        Raises ConfigError for a setting out of range, an unknown class or no such device.
        """
        require_image_size("image_size", image_size)
        if not (0 <= conf <= 1 and 0 <= iou <= 1 and max_detections >= 1):
            given = f"conf {conf}, iou {iou}, max_detections {max_detections}"
            raise ConfigError(f"{given}: expected conf and iou from 0 to 1 and max_detections of at least 1")
        if isinstance(network, DetectionModel):
            assert network.head.num_classes == len(categories)
            network = EagerRuntime(network, resolve_device(device))
        self.runtime = network
        self.device = network.device
        frame = FrameSize.of(image_size)
        if network.frame not in (None, frame):
            raise ConfigError(
                f"image_size: the exported file takes {network.frame.height} x {network.frame.width} px only, not"
                f" {frame.height} x {frame.width}; leave image_size out, or export with that size"
            )
        self.categories = categories
        self.image_size = image_size
        self.conf = conf
        self.iou = iou
        self.max_detections = max_detections
        self.batch = 1 if self.device.type == "cpu" else min(self.BATCH, network.most or self.BATCH)
        self.wanted = None if classes is None else _labels_of(classes, categories)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        image_size: int | tuple[int, int] | None = None,
        conf: float = 0.25,
        iou: float = 0.7,
        max_detections: int = 300,
        classes: Sequence[str] | None = None,
        device: str | torch.device = "auto",
        threads: int | None = None,
    ) -> "Detector":
        """From a weights file, shipped weights by name, or a file that `export` wrote: .onnx, .xml, .torchscript, .pt2, .engine.

        `image_size` is that of the file if not given; `device` "auto": CUDA where there is a card and the file can use it;
        `threads`: of the network on a CPU, and OpenCV's, each's choice if None. Raises WeightsError for a file that can't be
        used, ConfigError for a setting out of range.
        """
        runtime, info = load_runtime(path, device, threads)
        if runtime.places_pictures and image_size not in (None, info.image_size):
            raise ConfigError(
                f"image_size: {path} letterboxes pictures itself, to {info.image_size} px; leave image_size out, or export"
                " with that size"
            )
        return cls(
            runtime,
            info.categories,
            info.image_size if image_size is None else image_size,
            conf=conf,
            iou=iou,
            max_detections=max_detections,
            classes=classes,
        )

    @property
    def batch(self) -> int:
        """Pictures that the network sees at a time. Setting raises ConfigError for more than an exported file takes."""
        return self._batch

    @batch.setter
    def batch(self, pictures: int) -> None:
        most = self.runtime.most
        if pictures < 1 or (most is not None and pictures > most):
            limit = "" if most is None else f" to {most}, as many as the exported file takes"
            raise ConfigError(f"batch: {pictures} pictures at a time are not possible; expected 1{limit or ' or more'}")
        self._batch = pictures

    @property
    def model(self) -> DetectionModel:
        """The network in PyTorch, fused. Raises ConfigError if it is an exported file that runs."""
        if not isinstance(self.runtime, EagerRuntime):
            raise ConfigError(
                "an exported file shows nothing of its inside; give best.safetensors, the weights that it was made from"
            )
        return self.runtime.model

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, pictures: Picture
    ) -> Detections: ...

    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Detections]: ...

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Detections | list[Detections]:
        """`Detections` of a picture, or a list of them for a list; boxes in pixels of the original picture.

        Raises DataError for a picture that can't be read or an array that is no picture.
        """
        if isinstance(pictures, str | Path | bytes | np.ndarray | PIL.Image.Image | Tensor):
            return self([pictures])[0]
        found = []
        for start in range(0, len(pictures), self.batch):
            arrays = [as_array(picture) for picture in pictures[start : start + self.batch]]
            boxes = [self.letterbox(a.shape[1], a.shape[0]) for a in arrays]
            frames = [as_frame(box.image(array)) for box, array in zip(boxes, arrays, strict=True)]
            found += self.detect_frames(frames, boxes)
        return found

    def letterbox(self, width: int, height: int) -> Letterbox:
        """How a picture of this size goes into the network; not at all where an exported file places it itself."""
        if self.runtime.places_pictures:
            return Letterbox(width, height, width, height)
        frame = FrameSize.of(self.image_size)
        return Letterbox(width, height, frame.width, frame.height)

    @torch.no_grad()  # not inference_mode, whose tensors the caller could not change in place
    def detect_frames(
        self, frames: Sequence[UInt8[Tensor, "3 height width"]], letterboxes: Sequence[Letterbox]
    ) -> list[Detections]:
        """Detections of pictures that `letterbox` has placed, boxes in pixels of the originals."""
        selection = Selection(self.conf, self.iou, self.max_detections, self.wanted)
        chosen: list[Boxes] = []
        for start in range(0, len(frames), self.batch):
            chosen += self.runtime.detect(stacked(frames[start : start + self.batch]), selection)
        return [
            Detections(letterbox.to_original(boxes), scores, labels, self.categories)
            for (boxes, scores, labels), letterbox in zip(chosen, letterboxes, strict=True)
        ]


def as_frame(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 height width"]:
    writeable = pixels if pixels.flags.writeable else pixels.copy()  # torch warns of an array that can't be written to
    return torch.from_numpy(writeable).permute(2, 0, 1)


def stacked(frames: Sequence[UInt8[Tensor, "3 height width"]]) -> UInt8[Tensor, "batch 3 height width"]:
    """Frames of one size as a batch, a single one without a copy; the colours of a pixel stay together."""
    if len(frames) == 1:
        return frames[0][None]
    return torch.stack([frame.permute(1, 2, 0) for frame in frames]).permute(0, 3, 1, 2)


def as_array(picture: Picture) -> UInt8[np.ndarray, "height width 3"]:
    """Any `Picture` as RGB. Raises DataError for what is none."""
    if isinstance(picture, str | Path):
        return read_picture(Path(picture))
    if isinstance(picture, bytes):
        return picture_from_bytes(picture)
    if isinstance(picture, PIL.Image.Image):
        picture = picture_from_pil(picture)
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3:
            raise DataError(f"a picture tensor has shape {tuple(picture.shape)}; expected (3, height, width), RGB")
        if picture.is_floating_point():
            if not ((picture >= 0) & (picture <= 1)).all():
                raise DataError(
                    "a picture tensor of floats holds values outside 0..1; expected 0..1, or uint8 for 0..255"
                )
            picture = (picture.float() * 255).round().to(torch.uint8)
        picture = picture.detach().permute(1, 2, 0).cpu().numpy()
    if not isinstance(picture, np.ndarray):
        raise DataError(
            f"a {type(picture).__name__} is no picture; give a file, a NumPy array, a PIL image or a tensor"
        )
    if picture.dtype != np.uint8:
        raise DataError(f"a picture array has type {picture.dtype}; expected uint8, 0..255")
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise DataError(
            f"a picture array has shape {picture.shape}; expected (height, width, 3) RGB or (height, width)"
        )
    return np.ascontiguousarray(picture)


def _labels_of(classes: Sequence[str], categories: Categories) -> Int64[Tensor, " wanted"]:
    unknown = [name for name in classes if name not in categories.names]
    if unknown:
        raise ConfigError(f"classes: there is no class {unknown[0]!r}; the weights know {', '.join(categories.names)}")
    return torch.tensor([label for label, name in enumerate(categories.names) if name in classes])
