"""ExecuTorch files (.pte), run by ExecuTorch's portable kernels and XNNPACK on the CPU."""

import logging
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.errors import WeightsError, missing_package
from detector.formats.executorch.safety import METADATA, safe_program
from detector.formats.runtime import HeadRuntime, fixed_input_size, require_cpu
from detector.models.base import scale_pixels
from detector.structures import Predictions

logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # warns of a package that comes with ExecuTorch
try:
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime as Library
except ImportError as error:
    raise missing_package("ExecuTorch files", error, "mobile") from error


def load_executorch(path: Path, device: str | torch.device, threads: int | None) -> tuple["ExecuTorchRuntime", str]:
    """What runs the file, and its metadata. Raises WeightsError for a file that is none, damaged or could run code."""
    runtime = ExecuTorchRuntime(path, device, threads)
    return runtime, runtime.metadata


class ExecuTorchRuntime(HeadRuntime):
    """A file that takes one letterboxed image at a time and ends at the head. Its threads are shared by all files of the
    process."""

    max_batch_size = 1

    def __init__(self, path: Path, device: str | torch.device, threads: int | None) -> None:
        require_cpu(path, device)
        content = safe_program(path)
        if threads is not None:
            portable_lib._unsafe_reset_threadpool(threads)
        try:
            self.program = Library.get().load_program(content)
            self.method = self.program.load_method("forward")
            (self.metadata,) = self.program.load_method(METADATA).execute([])
            of_inputs = self.method.metadata.input_tensor_meta(0)
            of_scores = self.method.metadata.output_tensor_meta(1)
            _, _, *sides = of_inputs.sizes()
            self.input_size = fixed_input_size(sides)
            self.num_classes = of_scores.sizes()[2]
            self.lock = Lock()
            self.predict(torch.zeros(1, 3, *sides, dtype=torch.uint8))  # finds more that is wrong
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise WeightsError(f"{path}: ExecuTorch can't run it; export it again") from error

    def predict(self, inputs: UInt8[Tensor, "batch 3 height width"]) -> Predictions:
        """One thread at a time: the values in between lie in the program's memory."""
        with self.lock:
            return Predictions(*self.method.execute([scale_pixels(inputs).contiguous()]))
