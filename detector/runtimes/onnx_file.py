"""ONNX files, run by ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.errors import ConfigError, WeightsError
from detector.models.base import scale_pixels
from detector.runtimes.base import Boxes, HeadRuntime, Runtime, Selection, as_pixels_last, fixed_frame, only_wanted
from detector.runtimes.device import resolve_device
from detector.structures import Predictions

try:
    import onnxruntime
except ImportError as error:
    raise ConfigError(f"ONNX files need the package {error.name}: pip install 'detector[export]'") from error


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
    kinds: dict[str, Callable[[onnxruntime.InferenceSession], Runtime]] = {
        "picture": PictureFile,
        "frames": FramesFile,
        "images": RawFile,
    }
    kind = kinds.get(session.get_inputs()[0].name)
    if kind is None or "class_names" not in metadata:
        raise WeightsError(f"{path}: was not written by tools/export.py; export the weights with it")
    runtime = kind(session)
    runtime.device = place
    return runtime, metadata


def _providers(device: str | torch.device) -> tuple[torch.device, list[str]]:
    """The device, and ONNX Runtime's names for it and for what takes over what that can't do."""
    on_cards = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    place = resolve_device("cpu" if device == "auto" and not on_cards else device)
    if place.type == "cpu":
        return place, ["CPUExecutionProvider"]
    if not on_cards:
        raise ConfigError("device: this onnxruntime can't use CUDA; install onnxruntime-gpu or use --device cpu")
    return place, ["CUDAExecutionProvider", "CPUExecutionProvider"]


class PictureFile(Runtime):
    """A file that takes a picture of any size, and gives its detections in the picture's pixels."""

    places_pictures = True
    most = 1

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session

    def detect(self, frames: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[Boxes]:
        found = []
        for picture in as_pixels_last(frames):
            feeds = {"picture": picture.numpy()} | thresholds(selection)
            boxes, scores, labels, _ = self.session.run(["boxes", "scores", "labels", "count"], feeds)
            every = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels)
            found.append(only_wanted(every, selection))
        return found


class FramesFile(Runtime):
    """A file that takes letterboxed pictures and gives the detections of each, padded to the most of one."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        _, *sides, _ = session.get_inputs()[0].shape
        self.frame = fixed_frame(sides)

    def detect(self, frames: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[Boxes]:
        feeds = {"frames": as_pixels_last(frames).numpy()} | thresholds(selection)
        outputs = self.session.run(["frame_boxes", "frame_scores", "frame_labels", "counts"], feeds)
        boxes, scores, labels, counts = (torch.from_numpy(output) for output in outputs)
        return [
            only_wanted((boxes[i, :count], scores[i, :count], labels[i, :count]), selection)
            for i, count in enumerate(counts.tolist())
        ]


class RawFile(HeadRuntime):
    """A file that ends at the head."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        batch, _, *sides = session.get_inputs()[0].shape
        self.frame = fixed_frame(sides)
        self.most = batch if isinstance(batch, int) else None

    def predict(self, frames: UInt8[Tensor, "batch 3 height width"]) -> Predictions:
        images = scale_pixels(frames).contiguous().numpy()
        boxes, scores = self.session.run(["boxes", "scores"], {"images": images})
        return Predictions(torch.from_numpy(boxes), torch.from_numpy(scores))


def thresholds(selection: Selection) -> dict[str, np.ndarray]:
    """The inputs that have defaults. Labels are chosen afterwards, so all detections must come."""
    most = selection.max_detections if selection.wanted is None else np.iinfo(np.int32).max
    return {
        "conf": np.array(selection.conf, np.float32),
        "iou": np.array(selection.iou, np.float32),
        "max_detections": np.array(most, np.int64),
    }
