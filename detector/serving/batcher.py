"""Dynamic batching: one thread runs the network, on as many of the waiting images at a time as it takes."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from detector.images.letterbox import Letterbox
from detector.inference.detector import Detector
from detector.structures import Detections


class _Item(NamedTuple):
    input: UInt8[Tensor, "3 height width"]
    letterbox: Letterbox
    found: "Future[Detections]"


class DynamicBatcher:
    """Batches form while the network is busy: the next one is all that waits then, up to `detector.batch` images.

    max_wait: seconds that the first image of a batch waits for more; on_batch: gets the images of each batch and the
    seconds that the network took. To be used in `with`, whose end waits for what was submitted.
    """

    def __init__(self, detector: Detector, max_wait: float, on_batch: Callable[[int, float], None]) -> None:
        self.detector = detector
        self._max_wait = max_wait
        self._on_batch = on_batch
        self._waiting: SimpleQueue[_Item | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="runs the network", daemon=True)

    def __enter__(self) -> "DynamicBatcher":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()

    def submit(self, image: UInt8[Tensor, "3 height width"], letterbox: Letterbox) -> "Future[Detections]":
        """Have the network see an image that `letterbox` has placed. A future that is cancelled in time takes no turn."""
        item = _Item(image, letterbox, Future())
        self._waiting.put(item)
        return item.found

    def waiting(self) -> int:
        """Number of images that wait for the network."""
        return self._waiting.qsize()

    def _run(self) -> None:
        open_ended = True
        while open_ended:
            batch, open_ended = self._next_batch()
            batch = [item for item in batch if item.found.set_running_or_notify_cancel()]
            if batch:
                self._detect(batch)

    def _next_batch(self) -> tuple[list[_Item], bool]:
        """The images of the next batch, and whether others may follow."""
        batch: list[_Item] = []
        deadline = None
        while len(batch) < self.detector.batch:
            try:
                item = self._waiting.get(timeout=deadline and max(0.0, deadline - time.monotonic()))
            except Empty:
                break
            if item is None:
                return batch, False
            batch.append(item)
            deadline = deadline or time.monotonic() + self._max_wait
        return batch, True

    def _detect(self, batch: list[_Item]) -> None:
        start = time.monotonic()
        try:
            found = self.detector.detect_inputs([item.input for item in batch], [item.letterbox for item in batch])
        except Exception as error:  # goes on where each is waited for
            for item in batch:
                item.found.set_exception(error)
            return
        self._on_batch(len(batch), time.monotonic() - start)
        for item, detections in zip(batch, found, strict=True):
            item.found.set_result(detections)
