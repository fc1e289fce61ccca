"""ONNX files, and their outputs under onnxruntime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.exporting.graph import INPUT_NAME, OUTPUT_NAMES, ExportGraph, example_input
from detector.geometry.frame_size import STEP, FrameSize

try:
    import onnx
    import onnxruntime
except ImportError as error:
    raise ConfigError(f"--format onnx needs the package {error.name}: pip install 'detector[export]'") from error


def write_onnx(path: Path, graph: ExportGraph, size: FrameSize, dynamic: bool, metadata: dict[str, str]) -> None:
    """Write `graph` for inputs of `size`, or, if `dynamic`, any batch and any multiples of 32."""
    shapes = None
    example = example_input(size, batch=1)
    if dynamic:
        # as multiples, else torch can't tell that the maps to be concatenated have one size; 1 · 32 it would take for fixed
        sides = {axis: STEP * torch.export.Dim(name) for axis, name in ((2, "cells_high"), (3, "cells_wide"))}
        shapes = ({0: torch.export.Dim("batch"), **sides},)
        example = example_input(FrameSize(2 * STEP, 3 * STEP), batch=2)
    program = torch.onnx.export(
        graph,
        (example,),
        input_names=[INPUT_NAME],
        output_names=list(OUTPUT_NAMES),
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, str(path))


def onnx_runner(path: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function that runs the file on images (batch, 3, h, w)."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = session.run(list(OUTPUT_NAMES), {INPUT_NAME: images.numpy()})
        return torch.from_numpy(np.asarray(boxes)), torch.from_numpy(np.asarray(scores))

    return run
