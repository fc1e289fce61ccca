"""LiteRT files (.tflite), run by LiteRT on the CPU."""

from pathlib import Path
from threading import Lock

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.errors import WeightsError, missing_package
from detector.formats.litert.safety import safe_network
from detector.formats.runtime import HeadRuntime, channels_last, fixed_input_size, require_cpu
from detector.structures import Predictions

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError as error:
    raise missing_package("LiteRT files", error, "mobile") from error


def load_litert(path: Path, device: str | torch.device, threads: int | None) -> tuple["LiteRtRuntime", str]:
    """What runs the file, and its metadata. Raises WeightsError for a file that is none, damaged or could run code."""
    content, metadata = safe_network(path)
    return LiteRtRuntime(path, content, device, threads), metadata


class LiteRtRuntime(HeadRuntime):
    """A file that takes one letterboxed image at a time and ends at the head."""

    max_batch_size = 1

    def __init__(self, path: Path, content: bytes, device: str | torch.device, threads: int | None) -> None:
        require_cpu(path, device)
        try:
            interpreter = Interpreter(model_content=content, num_threads=threads)
            self.run = interpreter.get_signature_runner()
            of_inputs = self.run.get_input_details()["images_uint8"]
            of_scores = self.run.get_output_details()["scores"]
            _, height, width, _ = of_inputs["shape"].tolist()
            self.input_size = fixed_input_size((height, width))
            self.num_classes = int(of_scores["shape"][2])
            self.lock = Lock()
            self.predict(torch.zeros(1, 3, height, width, dtype=torch.uint8))  # finds more that is wrong
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise WeightsError(f"{path}: LiteRT can't run it; export it again") from error

    def predict(self, inputs: UInt8[Tensor, "batch 3 height width"]) -> Predictions:
        """One thread at a time: the values in between lie in the interpreter's memory."""
        with self.lock:
            outputs = self.run(images_uint8=channels_last(inputs).numpy())
        return Predictions(torch.from_numpy(outputs["boxes"]), torch.from_numpy(outputs["scores"]))
