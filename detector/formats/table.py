"""The table of formats: what an exported file can be. Configuration, export, loading, benchmark and docs read it.

To add a format: a row here, and a folder beside this file with what writes it and what runs it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

Precision = Literal["float32", "float16", "bfloat16", "int8"]
NEED_DATA: tuple[Precision, ...] = ("bfloat16", "int8")
"""Precisions whose export needs a dataset: files of them are judged by their AP, those in int8 also calibrated."""


@dataclass(frozen=True)
class Variant:
    """One file that `detector benchmark` measures: its name in the table, and options of the export."""

    name: str
    precision: Precision | None = None
    batched: bool = False
    raw: bool = False


@dataclass(frozen=True)
class Format:
    """One kind of file.

    description: what it is, for --help and docs; suffix: of the file's name, None for any; precisions: possible ones, the
    default first; writer, reader: "module:function", imported only when used, so that a format's packages are optional;
    options: flags of the export that it has, of batched, raw and dynamic; variants: what the benchmark measures;
    verified_on: the device on which the export compares the file with the model; None if it can't be run here.

    writer(path, model, info, config, calibration) writes the file. reader(path, device, threads) returns the
    `Runtime` and the metadata in the file; None for a format that is read as weights, or not at all.
    """

    description: str
    suffix: str | None
    precisions: tuple[Precision, ...]
    writer: str
    reader: str | None
    options: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    verified_on: str | None = "cpu"

    def write(self, *arguments: Any) -> None:
        """Call the writer."""
        _imported(self.writer)(*arguments)

    def read(self, *arguments: Any) -> Any:
        """Call the reader."""
        assert self.reader is not None
        return _imported(self.reader)(*arguments)


def _imported(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


FORMATS = {
    "onnx": Format(
        description="ONNX; by default with letterbox and NMS inside, from an image of any size to detections",
        suffix=".onnx",
        precisions=("float32", "int8"),
        writer="detector.formats.onnx.export:write_onnx",
        reader="detector.formats.onnx.runtime:load_onnx",
        options=("batched", "raw", "dynamic"),
        variants=(
            Variant("ONNX image"),
            Variant("ONNX batched", batched=True),
            Variant("ONNX raw", raw=True),
            Variant("ONNX raw int8", "int8", raw=True),
        ),
    ),
    "openvino": Format(
        description="OpenVINO (.xml with its .bin beside it)",
        suffix=".xml",
        precisions=("float32", "float16", "bfloat16", "int8"),
        writer="detector.formats.openvino.export:write_openvino",
        reader="detector.formats.openvino.runtime:load_openvino",
        variants=(
            Variant("OpenVINO"),
            Variant("OpenVINO float16", "float16"),
            Variant("OpenVINO bfloat16", "bfloat16"),
            Variant("OpenVINO int8", "int8"),
        ),
    ),
    "torchscript": Format(
        description="TorchScript",
        suffix=".torchscript",
        precisions=("float32",),
        writer="detector.formats.torch_native.export:write_torchscript",
        reader="detector.formats.torch_native.runtime:load_torchscript",
        options=("dynamic",),
        variants=(Variant("TorchScript"),),
    ),
    "torch_export": Format(
        description="torch.export",
        suffix=".pt2",
        precisions=("float32",),
        writer="detector.formats.torch_native.export:write_exported",
        reader="detector.formats.torch_native.runtime:load_exported",
        options=("dynamic",),
        variants=(Variant("torch.export"),),
    ),
    "executorch": Format(
        description="ExecuTorch for phones and small boards, with XNNPACK",
        suffix=".pte",
        precisions=("float32",),
        writer="detector.formats.executorch.export:write_executorch",
        reader="detector.formats.executorch.runtime:load_executorch",
        variants=(Variant("ExecuTorch"),),
    ),
    "litert": Format(
        description="LiteRT (TensorFlow Lite) for phones and small boards",
        suffix=".tflite",
        precisions=("float32",),
        writer="detector.formats.litert.export:write_litert",
        reader="detector.formats.litert.runtime:load_litert",
        variants=(Variant("LiteRT"),),
    ),
    "coreml": Format(
        description="Core ML package for Apple's systems; not compared with the model, as only those can run it",
        suffix=".mlpackage",
        precisions=("float32",),
        writer="detector.formats.coreml.export:write_coreml",
        reader=None,
        verified_on=None,
    ),
    "tensorrt": Format(
        description="TensorRT engine for the NVIDIA GPU at hand",
        suffix=".engine",
        precisions=("float32", "float16"),
        writer="detector.formats.tensorrt.export:write_engine",
        reader="detector.formats.tensorrt.runtime:load_engine",
        variants=(Variant("TensorRT"), Variant("TensorRT float16", "float16")),
        verified_on="cuda",
    ),
    "safetensors": Format(
        description="weights file of half the size, in half precision",
        suffix=".safetensors",
        precisions=("float16",),
        writer="detector.weights.files:write_half",
        reader=None,
    ),
    "published": Format(
        description="state dict of torch.save with the names of the published checkpoints",
        suffix=None,
        precisions=("float32",),
        writer="detector.weights.published.write:write_published",
        reader=None,
    ),
}


def format_of(path: Path) -> Format | None:
    """The format of an exported file by its suffix; None for a weights file and anything else."""
    suffix = path.suffix.lower()
    return next((each for each in FORMATS.values() if each.suffix == suffix and each.reader is not None), None)


def exported_suffixes() -> list[str]:
    """The suffixes by which exported files are known."""
    return [each.suffix for each in FORMATS.values() if each.suffix is not None and each.reader is not None]
