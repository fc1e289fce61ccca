"""TensorRT engines (.engine): the metadata's length, 8 bytes little-endian, the metadata, then the engine."""

from pathlib import Path
from threading import Lock

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.errors import ConfigError, WeightsError
from detector.runtimes.base import HeadRuntime, as_pixels_last, fixed_frame
from detector.runtimes.device import resolve_device
from detector.structures import Predictions

try:
    import tensorrt
except ImportError as error:
    raise ConfigError("TensorRT engines need the package tensorrt and an NVIDIA GPU: pip install tensorrt") from error


def card(path: Path, device: str | torch.device) -> torch.device:
    """The GPU to run the engine on. Raises ConfigError where there is none, or another device is named."""
    if not torch.cuda.is_available():
        raise ConfigError(f"{path}: an engine runs on the kind of NVIDIA GPU that it was built on; there is none here")
    resolved = resolve_device("cuda" if device == "auto" else device)
    if resolved.type != "cuda":
        raise ConfigError(f"device: {path} runs on an NVIDIA GPU; use --device cuda")
    return resolved


class TensorRtRuntime(HeadRuntime):
    """An engine that takes letterboxed pictures and ends at the head; it runs on the kind of GPU that it was built on."""

    def __init__(self, path: Path, device: str | torch.device) -> None:
        self.device = card(path, device)
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        self.metadata = content[8 : 8 + length].decode(errors="replace")
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
        self.engine = runtime.deserialize_cuda_engine(content[8 + length :])
        if self.engine is None:
            raise WeightsError(
                f"{path}: no engine for this GPU and TensorRT {tensorrt.__version__}; export it again here"
            )
        self.context = self.engine.create_execution_context()
        batch, *sides, _ = [side if side > 0 else "open" for side in self.engine.get_tensor_shape("frames")]
        self.frame = fixed_frame(sides)
        self.most = batch if isinstance(batch, int) else None
        self.lock = Lock()

    def predict(self, frames: UInt8[Tensor, "batch 3 height width"]) -> Predictions:
        """One thread at a time: the context holds the addresses."""
        with self.lock:
            found = self.enqueue(as_pixels_last(frames.to(self.device)))
            return Predictions(found.boxes.cpu(), found.scores.cpu())

    def enqueue(self, pixels: UInt8[Tensor, "batch height width 3"]) -> Predictions:
        """Begins on the current stream; what it gives is on the GPU, ready when the stream is."""
        self.context.set_input_shape("frames", tuple(pixels.shape))
        self.context.set_tensor_address("frames", pixels.data_ptr())
        outputs = []
        for name in ("boxes", "scores"):
            output = torch.empty(tuple(self.context.get_tensor_shape(name)), device=self.device)
            self.context.set_tensor_address(name, output.data_ptr())
            outputs.append(output)
        self.context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream)
        return Predictions(*outputs)
