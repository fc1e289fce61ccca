"""One network for several users, and what it found in an image, kept for other thresholds."""

import hashlib
from threading import Lock

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.formats.runtime import Runtime, Selection
from detector.inference.detector import Detector
from detector.models.postprocess import MAX_CANDIDATES, NmsResult, select_again

LOWEST_CONF = 0.01
"""Score from which on candidates are kept."""
EVERYTHING = Selection(LOWEST_CONF, 1.0, MAX_CANDIDATES, None)


class SharedNetwork:
    """A loaded detector that users take turns at. name: of its file; runs: the inputs of images that its network has seen."""

    def __init__(self, detector: Detector, name: str) -> None:
        self.detector = detector
        self.name = name
        self.turn = Lock()
        self.runs = 0

    def candidates(self, image: UInt8[Tensor, "3 height width"]) -> NmsResult:
        """All boxes in a network input with a score of `LOWEST_CONF` or more, best first, none suppressed."""
        self.runs += 1
        (found,) = self.detector.runtime.detect(image[None], EVERYTHING)
        return found


class TurnTakingRuntime(Runtime):
    """The network of a `SharedNetwork`, for a batch at a time, so that others get their turns in between."""

    def __init__(self, network: SharedNetwork) -> None:
        self.network = network
        runtime = network.detector.runtime
        self.device = runtime.device
        self.input_size = runtime.input_size
        self.letterboxes_inputs = runtime.letterboxes_inputs
        self.max_batch_size = runtime.max_batch_size

    def detect(self, inputs: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[NmsResult]:
        with self.network.turn:
            return self.network.detector.runtime.detect(inputs, selection)


class RememberingRuntime(TurnTakingRuntime):
    """Asks the network once for each input; the detections of other thresholds come from what it said."""

    def __init__(self, network: SharedNetwork) -> None:
        super().__init__(network)
        self.known: dict[bytes, NmsResult] = {}

    def detect(self, inputs: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[NmsResult]:
        return [select_again(self.candidates(image), *selection) for image in inputs]

    @torch.no_grad()
    def candidates(self, image: UInt8[Tensor, "3 height width"]) -> NmsResult:
        key = hashlib.sha256(image.permute(1, 2, 0).contiguous().numpy().tobytes()).digest()
        with self.network.turn:
            if key not in self.known:
                self.known[key] = self.network.candidates(image)
        return self.known[key]
