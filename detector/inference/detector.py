"""`Detector`: images in, `Detections` out; the one way from an image to boxes, used by infer, evaluate and training."""

import ctypes
import glob
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias, overload
from weakref import WeakSet

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from detector.config import DEFAULT_CONF, ImageSize, PredictionConfig, list_hint, names_in, require_image_size
from detector.errors import ConfigError, DataError, WeightsError
from detector.formats.load import load_runtime
from detector.formats.pytorch import EagerRuntime
from detector.formats.runtime import Runtime, Selection
from detector.images.input_size import InputSize
from detector.images.letterbox import Letterbox
from detector.images.read import image_from_bytes, image_from_pil, read_image
from detector.inference.sources import CAMERA, VIDEOS, is_url
from detector.models.base import DetectionModel
from detector.models.postprocess import NmsResult
from detector.structures import Categories, Detections
from detector.utils.device import resolve_device
from detector.utils.threads import limited_threads, patient_threads

ImageLike: TypeAlias = str | Path | bytes | bytearray | memoryview | IO[bytes] | np.ndarray | PIL.Image.Image | Tensor
"""A file; the bytes of one; a file open for reading bytes; a PIL image; an array (height, width) or (height, width, bands);
or a tensor (bands, height, width). Bands: 1 gray, 3 RGB, 4 RGB and alpha, which is dropped; uint8 or float in 0..1."""

_bound: WeakSet[Runtime] = WeakSet()
"""Runtimes that only the process that loaded them can use, or end: both would wait for threads that a fork leaves behind."""
_of_parent: list[Runtime] = []
"""Those of them that were loaded before this process was forked."""


def _leave_to_parent() -> None:
    for runtime in _bound:
        _of_parent.append(runtime)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))  # at the end of the process no list would keep it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


class Detector:
    """Finds objects in images, with the same boxes whatever runs the network.

    Its settings (`image_size`, `conf`, `iou`, `max_detections`, `classes`, `threads`) are those of `PredictionConfig`.
    `batch`, images that the network sees at a time: on a CPU 1, so that an image's boxes don't depend on its neighbors
    in a list, not by one bit; on CUDA `BATCH`, or as many as an exported file takes.
    """

    BATCH = 16
    class_conf: Float[Tensor, " classes"] | None
    """Lowest score of each label, as the weights say it; None where `conf` is that of all."""

    def __init__(
        self,
        network: DetectionModel | Runtime,
        categories: Categories,
        image_size: ImageSize,
        config: PredictionConfig = PredictionConfig(),  # noqa: B008, it is frozen
        **options: Any,
    ) -> None:
        """Takes a copy of a model, to the device; a runtime has its own.

        options: fields of `PredictionConfig` that differ from `config`. Raises ConfigError for a setting out of range, an
        unknown class or no such device.
        """
        config = config.changed(options)
        require_image_size("image_size", image_size)
        if isinstance(network, DetectionModel):
            assert network.head.num_classes == len(categories)
            with limited_threads(config.threads):
                network = EagerRuntime(network, resolve_device(config.device))
        if not network.survives_fork:
            _bound.add(network)
        self.runtime = network
        self.device = network.device
        size = InputSize.of(image_size)
        if network.input_size not in (None, size):
            raise ConfigError(
                f"image_size: the exported file takes {network.input_size.height} x {network.input_size.width} px only, not"
                f" {size.height} x {size.width}; leave image_size out, or export with that size"
            )
        self.categories = categories
        self.image_size = image_size
        self.conf = DEFAULT_CONF if config.conf is None else config.conf
        self.iou = config.iou
        self.max_detections = config.max_detections
        self.threads = config.threads
        self.batch = 1 if self.device.type == "cpu" else min(self.BATCH, network.max_batch_size or self.BATCH)
        self.class_filter = None if config.classes is None else _labels_of(config.classes, categories)

    @classmethod
    def load(
        cls,
        path: str | Path,
        config: PredictionConfig = PredictionConfig(),  # noqa: B008, it is frozen
        **options: Any,
    ) -> "Detector":
        """Load a weights file, shipped weights by name, or a file that `export` wrote: .onnx, .xml, .torchscript, .pt2, .engine.

        options: fields of `PredictionConfig` that differ from `config`, such as conf=0.4, classes=["car"], device="cpu".
        Raises WeightsError for a file that can't be used, ConfigError for a setting that is unknown or out of range.
        """
        config = config.changed(options)
        with limited_threads(config.threads):
            runtime, info = load_runtime(path, config.device, config.threads)
        if runtime.letterboxes_inputs and config.image_size not in (None, info.image_size):
            raise ConfigError(
                f"image_size: {path} letterboxes images itself, to {info.image_size} px; leave image_size out, or export"
                " with that size"
            )
        detector = cls(runtime, info.categories, config.image_size or info.image_size, config)
        if config.conf is None and info.class_conf is not None:
            detector._conf = min(info.class_conf)
            detector.class_conf = torch.tensor(info.class_conf, dtype=torch.float32)
        return detector

    @property
    def conf(self) -> float:
        """Lowest score of a detection, the lowest of all classes where each has its own. Setting it sets that of all classes."""
        return self._conf

    @conf.setter
    def conf(self, score: float) -> None:
        self._conf, self.class_conf = score, None

    @property
    def selection(self) -> Selection:
        """The settings of postprocessing."""
        return Selection(self.conf, self.iou, self.max_detections, self.class_filter, self.class_conf)

    @property
    def batch(self) -> int:
        """Images that the network sees at a time. Setting raises ConfigError for more than an exported file takes."""
        return self._batch

    @batch.setter
    def batch(self, images: int) -> None:
        limit = self.runtime.max_batch_size
        if images < 1 or (limit is not None and images > limit):
            until = "" if limit is None else f" to {limit}, as many as the exported file takes"
            raise ConfigError(f"batch: invalid value {images}: expected 1{until or ' or more'}")
        self._batch = images

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
        self, images: ImageLike
    ) -> Detections: ...

    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[Detections]: ...

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Detections | list[Detections]:
        """`Detections` of an image, or a list of them for a list or a batch, an array (images, height, width, bands) or a
        tensor (images, bands, height, width); boxes in pixels of the original image.

        Raises DataError for an image that can't be read or an array that is no image.
        """
        listed, one = as_list(images)
        found = []
        for start in range(0, len(listed), self.batch):
            arrays = [as_array(image) for image in listed[start : start + self.batch]]
            letterboxes = [self.letterbox(array.shape[1], array.shape[0]) for array in arrays]
            with limited_threads(self.threads):
                inputs = [to_tensor(each.apply(array)) for each, array in zip(letterboxes, arrays, strict=True)]
            found += self.detect_inputs(inputs, letterboxes)
        return found[0] if one else found

    def letterbox(self, width: int, height: int) -> Letterbox:
        """How an image of this size goes into the network; not at all where an exported file places it itself."""
        if self.runtime.letterboxes_inputs:
            return Letterbox(width, height, width, height)
        size = InputSize.of(self.image_size)
        return Letterbox(width, height, size.width, size.height)

    @torch.no_grad()  # not inference_mode, whose tensors the caller could not change in place
    def detect_inputs(
        self, inputs: Sequence[UInt8[Tensor, "3 height width"]], letterboxes: Sequence[Letterbox]
    ) -> list[Detections]:
        """Detections of images that `letterbox` has placed, boxes in pixels of the originals.

        Raises ConfigError in a process that was forked after the load, unless PyTorch runs the network on a CPU.
        """
        if self.runtime in _of_parent:
            raise ConfigError(
                "this Detector was loaded before the process was forked, which only PyTorch on a CPU allows; load it after the"
                " fork, in each process (on CUDA, in processes started by spawn)"
            )
        found: list[NmsResult] = []
        with limited_threads(self.threads), patient_threads():
            for start in range(0, len(inputs), self.batch):
                found += self.runtime.detect(stack_inputs(inputs[start : start + self.batch]), self.selection)
        for labels in (
            each.labels for each in found
        ):  # with NMS inside, a file can't be asked for its number of classes
            unknown = labels[(labels < 0) | (labels >= len(self.categories))]
            if len(unknown):
                raise WeightsError(
                    f"the exported file detects the class {int(unknown[0])}, but its metadata name {len(self.categories)}"
                    " classes; export it again"
                )
        return [
            Detections(letterbox.to_original(each.boxes), each.scores, each.labels, self.categories)
            for each, letterbox in zip(found, letterboxes, strict=True)
        ]


def to_tensor(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 height width"]:
    writeable = pixels if pixels.flags.writeable else pixels.copy()  # torch warns of an array that can't be written to
    return torch.from_numpy(writeable).permute(2, 0, 1)


def stack_inputs(inputs: Sequence[UInt8[Tensor, "3 height width"]]) -> UInt8[Tensor, "batch 3 height width"]:
    """Inputs of one size as a batch, a single one without a copy; the colors of a pixel stay together."""
    if len(inputs) == 1:
        return inputs[0][None]
    return torch.stack([each.permute(1, 2, 0) for each in inputs]).permute(0, 3, 1, 2)


def file_of(image: Any) -> Any:
    """The file in one of tempfile's, which is no `IOBase` and would pass for a list of its lines; anything else as it is."""
    return image.file if isinstance(image, tempfile._TemporaryFileWrapper) else image


def as_list(images: Any) -> tuple[Sequence[Any], bool]:
    """The images of a list or a batch, and False; what is to be one image, in a list, and True."""
    if isinstance(images, np.ndarray | Tensor):
        return (list(images), False) if images.ndim == 4 else ([images], True)
    many = isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray | memoryview)
    return (images, False) if many else ([images], True)


def as_array(image: object) -> UInt8[np.ndarray, "height width 3"]:
    """Any `ImageLike` as RGB. Raises DataError for what is none."""
    if isinstance(image, str | Path):
        _require_image_file(str(image))
        return read_image(Path(image))
    image = file_of(image)
    if isinstance(image, io.IOBase) and not isinstance(image, io.TextIOBase):
        image = image.read()
    if isinstance(image, bytes | bytearray | memoryview):
        return image_from_bytes(bytes(image))
    if isinstance(image, PIL.Image.Image):
        image = image_from_pil(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
            raise DataError(
                f"an image tensor has shape {tuple(image.shape)}; expected (bands, height, width) of 1, 3 or 4 bands"
            )
        image = image.detach().permute(1, 2, 0).cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()  # NumPy has no bfloat16
    if not isinstance(image, np.ndarray):
        raise DataError(
            f"unsupported image type {type(image).__name__!r}; pass a path, bytes, a file open for reading bytes, a NumPy array,"
            " a PIL image or a tensor"
        )
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise DataError(
            f"an image array has shape {image.shape}; expected (height, width) or (height, width, bands) of 1, 3 or 4 bands"
        )
    if np.issubdtype(image.dtype, np.floating):
        if not ((image >= 0) & (image <= 1)).all():
            raise DataError("an image of floats holds values outside 0..1; expected 0..1, or uint8 for 0..255")
        image = (image * 255).round().astype(np.uint8)
    if image.dtype != np.uint8:
        raise DataError(f"an image array has type {image.dtype}; expected uint8, 0..255, or floats in 0..1")
    return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3])


def _require_image_file(name: str) -> None:
    """Raise DataError for a source that is more or other than one image file."""
    path = Path(name)
    video = path.suffix.lower().lstrip(".") in VIDEOS
    others = is_url(name) or CAMERA.fullmatch(name) or path.is_dir() or (glob.has_magic(name) and not path.exists())
    if video or others:
        raise DataError(
            f"{name}: a Detector takes image files; for folders, globs, URLs, videos and cameras use"
            " detector.stream(detector, [source])"
        )


def _labels_of(option: Sequence[str] | str, categories: Categories) -> Int64[Tensor, " labels"]:
    classes = names_in(option)
    unknown = [name for name in classes if name not in categories.names]
    if unknown:
        raise ConfigError(
            f"classes: there is no class {unknown[0]!r}; the weights know {', '.join(categories.names)}"
            f"{list_hint(option, categories.names)}"
        )
    return torch.tensor([label for label, name in enumerate(categories.names) if name in classes], dtype=torch.int64)
