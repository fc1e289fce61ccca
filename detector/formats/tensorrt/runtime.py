"""TensorRT engines (.engine): the metadata's length, 8 bytes little-endian, the metadata, then the engine."""

from pathlib import Path
from threading import Lock

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.errors import ConfigError, WeightsError
from detector.formats.runtime import HeadRuntime, channels_last, fixed_input_size
from detector.structures import Predictions
from detector.utils.device import resolve_device

try:
    import tensorrt
except ImportError as error:
    raise ConfigError("TensorRT engines need the package tensorrt and an NVIDIA GPU: pip install tensorrt") from error


def gpu_device(path: Path, device: str | torch.device) -> torch.device:
    """The GPU to run the engine on. Raises ConfigError where there is none, or another device is named."""
    if not torch.cuda.is_available():
        raise ConfigError(f"{path}: an engine runs on the kind of NVIDIA GPU that it was built on; there is none here")
    resolved = resolve_device("cuda" if device == "auto" else device)
    if resolved.type != "cuda":
        raise ConfigError(f"device: {path} runs on an NVIDIA GPU; use --device cuda")
    return resolved


def load_engine(path: Path, device: str | torch.device, _threads: int | None) -> tuple["TensorRtRuntime", str]:
    """What runs the engine, and its metadata. Raises WeightsError for a file that this TensorRT can't run."""
    runtime = TensorRtRuntime(path, device)
    return runtime, runtime.metadata


class TensorRtRuntime(HeadRuntime):
    """An engine that takes letterboxed images and ends at the head; it runs on the kind of GPU that it was built on."""

    def __init__(self, path: Path, device: str | torch.device) -> None:
        self.device = gpu_device(path, device)
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
        batch, *sides, _ = [side if side > 0 else "open" for side in self.engine.get_tensor_shape("images_uint8")]
        self.input_size = fixed_input_size(sides)
        self.max_batch_size = batch if isinstance(batch, int) else None
        self.num_classes = self.engine.get_tensor_shape("scores")[2]
        self.lock = Lock()

    def predict(self, inputs: UInt8[Tensor, "batch 3 height width"]) -> Predictions:
        """One thread at a time: the context holds the addresses."""
        with self.lock:
            found = self.enqueue(channels_last(inputs.to(self.device)))
            return Predictions(found.boxes.cpu(), found.scores.cpu())

    def enqueue(self, pixels: UInt8[Tensor, "batch height width 3"]) -> Predictions:
        """Begins on the current stream; what it gives is on the GPU, ready when the stream is."""
        self.context.set_input_shape("images_uint8", tuple(pixels.shape))
        self.context.set_tensor_address("images_uint8", pixels.data_ptr())
        outputs = []
        for name in ("boxes", "scores"):
            output = torch.empty(tuple(self.context.get_tensor_shape(name)), device=self.device)
            self.context.set_tensor_address(name, output.data_ptr())
            outputs.append(output)
        self.context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream)
        return Predictions(*outputs)
