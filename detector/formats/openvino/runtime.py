"""OpenVINO files (.xml with the .bin beside it), run by OpenVINO on the CPU."""

import sys
from functools import cache
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.errors import WeightsError, missing_package
from detector.formats.runtime import HeadRuntime, Selection, channels_last, fixed_input_size, require_cpu
from detector.models.postprocess import NmsResult
from detector.structures import Predictions

# openvino and nncf report their use to Google Analytics through this package, but do without if it can't be imported
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
try:
    import openvino
except ImportError as error:
    raise missing_package("OpenVINO files", error, "export") from error

SECTION = "detector"
"""Section of the file's runtime information that holds the metadata."""
PRECISION = "detector_precision"
"""Entry of the runtime information: the precision to compute in where the processor can, as OpenVINO names it; float32 in
files without it."""
OPTIONS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
"""Without the second, OpenVINO may take half precision or bfloat16 for what is in float."""


@cache
def core() -> openvino.Core:
    """One for the process: each takes over the stack that the thread's signal handlers run on, and of several those that go
    in another order than they came leave a stack that is gone; the next signal, such as a child's end, then is fatal."""
    return openvino.Core()


def load_openvino(
    path: Path, device: str | torch.device, threads: int | None
) -> tuple["OpenVinoRuntime", dict[str, str]]:
    """What runs the file, and its metadata. Raises WeightsError for a file that OpenVINO can't read."""
    runtime = OpenVinoRuntime(path, device, threads)
    return runtime, runtime.metadata


def _compile(model: openvino.Model, options: dict[str, str]) -> openvino.CompiledModel:
    """Compile in the precision asked for, or in float32 where the processor says that it can but has no code for it."""
    try:
        return core().compile_model(model, "CPU", options)
    except RuntimeError:
        if options["INFERENCE_PRECISION_HINT"] == OPTIONS["INFERENCE_PRECISION_HINT"]:
            raise
        return core().compile_model(model, "CPU", options | OPTIONS)


class OpenVinoRuntime(HeadRuntime):
    """A file that takes letterboxed images and ends at the head."""

    def __init__(self, path: Path, device: str | torch.device, threads: int | None) -> None:
        require_cpu(path, device)
        options = OPTIONS | ({} if threads is None else {"INFERENCE_NUM_THREADS": str(threads)})
        with path.open("rb") as file:
            if not file.read(100).lstrip().startswith(b"<"):  # OpenVINO would try all other formats, and write of each
                raise WeightsError(f"{path}: this is no OpenVINO file, or a damaged one; export it again")
        try:
            model = core().read_model(path)
            if PRECISION in model.rt_info:
                options |= {"INFERENCE_PRECISION_HINT": model.rt_info[PRECISION].astype(str)}
            self.request = _compile(model, options).create_infer_request()
        except RuntimeError as error:
            raise WeightsError(
                f"{path}: OpenVINO can't read it ({' '.join(str(error).split())[:200]}); export it again, and keep the"
                " .bin file beside it"
            ) from error
        if SECTION not in model.rt_info:
            raise WeightsError(f"{path}: was not written by detector export; export the weights with it")
        self.metadata = {key: value.astype(str) for key, value in model.rt_info[SECTION].items()}
        batch, *sides, _ = [side.get_length() if side.is_static else "open" for side in model.input(0).partial_shape]
        self.input_size = fixed_input_size(sides)
        self.max_batch_size = batch if isinstance(batch, int) else None
        self.num_classes = model.output("scores").partial_shape[2].get_length()
        self.lock = Lock()

    def detect(self, inputs: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[NmsResult]:
        """One thread at a time: the predictions lie in the request's memory."""
        with self.lock:
            return super().detect(inputs, selection)

    def predict(self, inputs: UInt8[Tensor, "batch 3 height width"]) -> Predictions:
        """Predictions in memory that the next call overwrites."""
        pixels = channels_last(inputs).numpy()
        outputs = self.request.infer({"images_uint8": pixels}, share_inputs=True, share_outputs=True)
        return Predictions(torch.from_numpy(outputs["boxes"]), torch.from_numpy(outputs["scores"]))
