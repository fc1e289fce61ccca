"""ONNX files, run by ONNX Runtime."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.errors import ConfigError, WeightsError, missing_package
from detector.formats.runtime import (
    HeadRuntime,
    Runtime,
    Selection,
    apply_class_filter,
    channels_last,
    fixed_input_size,
)
from detector.models.base import scale_pixels
from detector.models.postprocess import NmsResult
from detector.structures import Predictions
from detector.utils.device import resolve_device

try:
    import onnxruntime
except ImportError as error:
    raise missing_package("ONNX files", error, "export") from error


THRESHOLDS: dict[str, tuple[str, list[int | None]]]
THRESHOLDS = {"conf": ("float", []), "iou": ("float", []), "max_detections": ("int64", [])}
TENSORS: tuple[dict[str, tuple[str, list[int | None]]], ...] = (
    {
        "image": ("uint8", [None, None, 3]),
        **THRESHOLDS,
        "boxes": ("float", [None, 4]),
        "scores": ("float", [None]),
        "labels": ("int64", [None]),
        "count": ("int64", []),
    },
    {
        "images_uint8": ("uint8", [None, None, None, 3]),
        **THRESHOLDS,
        "batch_boxes": ("float", [None, None, 4]),
        "batch_scores": ("float", [None, None]),
        "batch_labels": ("int64", [None, None]),
        "counts": ("int64", [None]),
    },
    {
        "images": ("float", [None, 3, None, None]),
        "boxes": ("float", [None, None, 4]),
        "scores": ("float", [None, None, None]),
    },
)
"""Inputs and outputs of the three kinds of files; None stands for any length of a side."""


def load_onnx(path: Path, device: str | torch.device, threads: int | None) -> tuple[Runtime, dict[str, str]]:
    """What runs the file, and its metadata. Raises WeightsError for a file that ONNX Runtime can't read."""
    place, providers = _providers(device)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # else it warns that the thresholds can be changed
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # of a dozen kinds, all derived from Exception alone
        raise WeightsError(
            f"{path}: ONNX Runtime can't read it ({' '.join(str(error).split())[:200]}); export it again"
        ) from error
    metadata = session.get_modelmeta().custom_metadata_map
    kinds: tuple[Callable[[onnxruntime.InferenceSession], Runtime], ...] = (ImageFile, BatchedFile, RawFile)
    kind = next((each for each, tensors in zip(kinds, TENSORS, strict=True) if _has(session, tensors)), None)
    if kind is None or "class_names" not in metadata:
        raise WeightsError(f"{path}: was not written by detector export; export the weights with it")
    runtime = kind(session)
    runtime.device = place
    return runtime, metadata


def _has(session: onnxruntime.InferenceSession, tensors: Mapping[str, tuple[str, list[int | None]]]) -> bool:
    """Whether these are the inputs and outputs of the file."""
    own = [*session.get_inputs(), *session.get_overridable_initializers(), *session.get_outputs()]
    return {each.name for each in own} == tensors.keys() and all(
        each.type == f"tensor({kind})"
        and len(each.shape) == len(shape)
        and all(length in (None, side) for length, side in zip(shape, each.shape, strict=True))
        for each in own
        for kind, shape in [tensors[each.name]]
    )


def _providers(device: str | torch.device) -> tuple[torch.device, list[str]]:
    """The device, and ONNX Runtime's names for it and for what takes over what that can't do."""
    on_gpus = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    place = resolve_device("cpu" if device == "auto" and not on_gpus else device)
    if place.type == "cpu":
        return place, ["CPUExecutionProvider"]
    if not on_gpus:
        raise ConfigError("device: this onnxruntime can't use CUDA; install onnxruntime-gpu or use --device cpu")
    return place, ["CUDAExecutionProvider", "CPUExecutionProvider"]


class ImageFile(Runtime):
    """A file that takes an image of any size, and gives its detections in the image's pixels."""

    letterboxes_inputs = True
    max_batch_size = 1

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session

    def detect(self, inputs: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[NmsResult]:
        found = []
        for image in channels_last(inputs):
            feeds = {"image": image.numpy()} | thresholds(selection)
            boxes, scores, labels, _ = self.session.run(["boxes", "scores", "labels", "count"], feeds)
            every = NmsResult(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels))
            found.append(apply_class_filter(every, selection))
        return found


class BatchedFile(Runtime):
    """A file that takes letterboxed images and gives the detections of each, padded to the largest number."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        _, *sides, _ = session.get_inputs()[0].shape
        self.input_size = fixed_input_size(sides)

    def detect(self, inputs: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[NmsResult]:
        feeds = {"images_uint8": channels_last(inputs).numpy()} | thresholds(selection)
        outputs = self.session.run(["batch_boxes", "batch_scores", "batch_labels", "counts"], feeds)
        boxes, scores, labels, counts = (torch.from_numpy(output) for output in outputs)
        return [
            apply_class_filter(NmsResult(boxes[i, :count], scores[i, :count], labels[i, :count]), selection)
            for i, count in enumerate(counts.tolist())
        ]


class RawFile(HeadRuntime):
    """A file that ends at the head."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        batch, _, *sides = session.get_inputs()[0].shape
        self.input_size = fixed_input_size(sides)
        self.max_batch_size = batch if isinstance(batch, int) else None
        self.num_classes = next(each.shape[2] for each in session.get_outputs() if each.name == "scores")

    def predict(self, inputs: UInt8[Tensor, "batch 3 height width"]) -> Predictions:
        images = scale_pixels(inputs).contiguous().numpy()
        boxes, scores = self.session.run(["boxes", "scores"], {"images": images})
        return Predictions(torch.from_numpy(boxes), torch.from_numpy(scores))


def thresholds(selection: Selection) -> dict[str, np.ndarray]:
    """The inputs that have defaults. Detections are filtered by class afterwards, so all must come."""
    limit = np.iinfo(np.int32).max if selection.by_class else selection.max_detections
    return {
        "conf": np.array(selection.conf, np.float32),
        "iou": np.array(selection.iou, np.float32),
        "max_detections": np.array(limit, np.int64),
    }
