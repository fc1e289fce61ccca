"""From a file to what runs it; the suffix says what it is, the file itself says which classes and sizes it knows."""

import json
from pathlib import Path

import cv2
import torch

from detector.config import require_threads
from detector.errors import WeightsError
from detector.runtimes.base import Runtime
from detector.runtimes.device import resolve_device
from detector.runtimes.eager import EagerRuntime
from detector.runtimes.memory import keep_freed_memory
from detector.weights.files import WeightsInfo, is_exported, load_weights


def load_runtime(path: str | Path, device: str | torch.device, threads: int | None) -> tuple[Runtime, WeightsInfo]:
    """A weights file (or shipped weights by name), or a file that tools/export.py wrote.

    device: "auto" is CUDA where there is a card and the runtime can use it; threads: for the network on a CPU and for OpenCV, None
    leaves that to each; PyTorch's and OpenCV's are those of the whole process.
    Raises WeightsError for a file that is missing, damaged or of another program, ConfigError where the runtime's package
    is not installed or `device` is not one of its, or `threads` is below 1.
    """
    require_threads(threads)
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    keep_freed_memory()
    file = Path(path)
    if not is_exported(file):
        model, info = load_weights(path)
        return EagerRuntime(model, resolve_device(device)), info
    if not file.is_file():
        raise WeightsError(f"{path}: there is no such file; tools/export.py writes one")
    runtime, metadata = _load_exported(file, device, threads)
    try:
        return runtime, WeightsInfo.from_metadata(metadata if isinstance(metadata, dict) else json.loads(metadata))
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path}: lacks the metadata that tools/export.py writes ({error}); export it again"
        ) from error


def _load_exported(file: Path, device: str | torch.device, threads: int | None) -> tuple[Runtime, dict[str, str] | str]:
    """The runtime and the metadata. A format's packages are imported only where a file is of that format."""
    suffix = file.suffix.lower()
    if suffix == ".onnx":
        from detector.runtimes.onnx_file import load_onnx

        return load_onnx(file, device, threads)
    if suffix == ".xml":
        from detector.runtimes.openvino_file import OpenVinoRuntime

        runtime = OpenVinoRuntime(file, device, threads)
        return runtime, runtime.metadata
    if suffix == ".engine":
        from detector.runtimes.tensorrt_file import TensorRtRuntime

        engine = TensorRtRuntime(file, device)
        return engine, engine.metadata
    from detector.runtimes.torch_files import load_exported, load_torchscript

    load = load_torchscript if suffix == ".torchscript" else load_exported
    return load(file, resolve_device(device))
