"""From a file to what runs it; the suffix tells the format, the file itself its classes and sizes."""

import json
from pathlib import Path

import torch

from detector.errors import WeightsError
from detector.formats.pytorch import EagerRuntime
from detector.formats.runtime import Runtime
from detector.formats.table import format_of
from detector.utils.device import resolve_device
from detector.weights.files import WeightsInfo, load_weights


def load_runtime(path: str | Path, device: str | torch.device, threads: int | None) -> tuple[Runtime, WeightsInfo]:
    """Load a weights file (or shipped weights by name), or a file that `detector export` wrote.

    device: "auto" is CUDA where there is a GPU and the runtime can use it; threads: of the network on a CPU in a runtime
    with threads of its own (ONNX Runtime, OpenVINO), its choice if None.
    Raises WeightsError for a file that is missing, damaged or of another program, ConfigError where the runtime's package
    is not installed or it can't use `device`.
    """
    file = Path(path)
    exported = format_of(file)
    if exported is None:
        model, info = load_weights(path)
        return EagerRuntime(model, resolve_device(device)), info
    if not file.is_file():
        raise WeightsError(f"{path}: there is no such file; detector export writes one")
    runtime, metadata = exported.read(file, device, threads)
    try:
        info = WeightsInfo.from_metadata(metadata if isinstance(metadata, dict) else json.loads(metadata))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: lacks the metadata that detector export writes ({error}); export it again"
        ) from error
    if runtime.num_classes not in (None, len(info.categories)):
        raise WeightsError(
            f"{path}: its metadata name {len(info.categories)} classes, its network scores {runtime.num_classes};"
            " export it again"
        )
    return runtime, info
