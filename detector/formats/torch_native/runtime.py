"""Files of PyTorch's own compilers: TorchScript (.torchscript) and torch.export (.pt2)."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.export.passes import move_to_device_pass

from detector.errors import WeightsError
from detector.formats.runtime import HeadRuntime, channels_last
from detector.formats.torch_native.safety import safe_exported, safe_torchscript
from detector.structures import Predictions
from detector.utils.device import resolve_device

logging.getLogger("torch.export").setLevel(logging.ERROR)  # of a damaged file it logs a traceback before it raises

METADATA = "detector.json"
"""The extra file inside that holds the metadata."""


class TorchFileRuntime(HeadRuntime):
    """A file that takes any number of letterboxed images of any size and ends at the head."""

    def __init__(self, run: Callable[[Tensor], tuple[Tensor, Tensor]], device: torch.device) -> None:
        self.run = run
        self.device = device
        self.survives_fork = device.type == "cpu"
        with torch.no_grad():
            _, scores = run(torch.zeros(1, 64, 64, 3, dtype=torch.uint8, device=device))
        self.num_classes = scores.shape[2]

    @torch.no_grad()
    def predict(self, inputs: UInt8[Tensor, "batch 3 height width"]) -> Predictions:
        boxes, scores = self.run(channels_last(inputs).to(self.device))
        return Predictions(boxes.cpu(), scores.cpu())


def load_torchscript(path: Path, device: str | torch.device, _threads: int | None) -> tuple[TorchFileRuntime, str]:
    """What runs the file, and its metadata. Raises WeightsError for a file that is none, damaged or could run code."""
    place, extra = resolve_device(device), {METADATA: ""}
    content = safe_torchscript(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch advises torch.export, which is another format
            module = torch.jit.load(content, map_location=place, _extra_files=extra)  # type: ignore[no-untyped-call]
        return TorchFileRuntime(module, place), as_text(extra[METADATA])
    except RuntimeError as error:
        raise WeightsError(f"{path}: not a TorchScript file, or a damaged one; export it again") from error


def load_exported(path: Path, device: str | torch.device, _threads: int | None) -> tuple[TorchFileRuntime, str]:
    """Load a file of torch.export; as `load_torchscript`."""
    place, extra = resolve_device(device), {METADATA: ""}
    content = safe_exported(path)
    try:
        program = torch.export.load(content, extra_files=extra)
        if place.type != "cpu":
            program = move_to_device_pass(program, place)
        return TorchFileRuntime(program.module(), place), as_text(extra[METADATA])
    except Exception as error:  # of many kinds: of the archive, of the graph, of its own
        raise WeightsError(f"{path}: no file of torch.export, or a damaged one; export it again") from error


def as_text(content: str | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else content
