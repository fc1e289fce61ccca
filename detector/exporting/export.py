"""Weights to a file for another runtime, or a smaller one for this, which stays only if it says what the model says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from detector.config import ExportConfig, PathsConfig
from detector.data.coco import CocoImages
from detector.data.pictures import read_picture
from detector.data.splits import split_paths
from detector.errors import ConfigError, ExportMismatchError
from detector.exporting.graph import ExportGraph
from detector.exporting.half import write_half
from detector.exporting.published import write_published
from detector.exporting.verify import HALF, Comparison, Runner, compare, shipped_pictures
from detector.fileio import atomic_write, require_writable
from detector.geometry.frame_size import FrameSize
from detector.weights.files import WeightsInfo, load_weights

MOST_PICTURES = 16


def export(config: ExportConfig) -> Comparison:
    """Write `config.out` and compare it with the model on real pictures.

    Raises ExportMismatchError (exit code 1) with the figures, and leaves no file, if they differ; other DetectorError
    kinds for what the user can mend.
    """
    require_writable(Path(config.out).parent)
    if Path(config.out).is_dir():
        raise ConfigError(f"--out: {config.out} is a folder; name the file to write")
    model, info = load_weights(Path(config.weights))
    image_size = config.image_size or info.image_size
    size = FrameSize.of(image_size)
    pictures = comparison_pictures(config, info)
    graph = ExportGraph(model)
    info = replace(info, image_size=image_size)
    open_sizes = config.dynamic or config.format == "torchscript"
    sizes = [size, FrameSize(size.height + 64, size.width)] if open_sizes else [size]
    comparison: Comparison | None = None

    def write_and_compare(path: Path) -> None:
        nonlocal comparison
        if config.format == "safetensors":
            comparison = compare(model, write_half(path, model, info), pictures, sizes, HALF)
        elif config.format == "published":
            comparison = compare(model, write_published(path, model, info.model), pictures, sizes)
        else:
            run = write(path, graph, size, config, info.to_metadata())
            comparison = compare(model, run, pictures, sizes)
        if not comparison.passes():
            raise ExportMismatchError(f"{config.out} was not written: {comparison}")

    atomic_write(Path(config.out), write_and_compare)
    assert comparison is not None
    print(f"written: {config.out}; {comparison}")
    return comparison


def write(path: Path, graph: ExportGraph, size: FrameSize, config: ExportConfig, metadata: dict[str, str]) -> Runner:
    """Write the file; returns what runs it. The format's packages are imported only where it is asked for."""
    if config.format == "onnx":
        from detector.exporting.onnx import onnx_runner, write_onnx

        write_onnx(path, graph, size, config.dynamic, metadata)
        return onnx_runner(path)
    from detector.exporting.torchscript import torchscript_runner, write_torchscript

    write_torchscript(path, graph, size, metadata)
    return torchscript_runner(path)


def comparison_pictures(config: ExportConfig, info: WeightsInfo) -> list[UInt8[np.ndarray, "_h _w 3"]]:
    """The first validation pictures of the data set, or the shipped photographs."""
    if config.data is None:
        return [read_picture(path) for path in shipped_pictures()]
    images = CocoImages.load(split_paths(config.data, PathsConfig(), "val"), info.categories)
    return [images.read(i).image for i in range(min(len(images), MOST_PICTURES))]
