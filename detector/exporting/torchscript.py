"""TorchScript files, and their outputs under torch.jit."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from detector.exporting.graph import ExportGraph, example_input
from detector.geometry.frame_size import FrameSize


def write_torchscript(path: Path, graph: ExportGraph, size: FrameSize, metadata: dict[str, str]) -> None:
    """Trace `graph`; the file takes any batch and any multiples of 32. `metadata` go in as extra files."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises torch.export, which is another format
        traced = torch.jit.trace(graph, example_input(size, batch=2))  # type: ignore[no-untyped-call]
        buffer = io.BytesIO()  # where the disk is full, torch's own writer ends the process
        torch.jit.save(traced, buffer, _extra_files=dict(metadata))
    path.write_bytes(buffer.getbuffer())


def torchscript_runner(path: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function that runs the file on images (batch, 3, h, w)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = module(images)
        return boxes, scores

    return run
