"""A server of this process for tests, on a free port of the loopback address, and requests to it."""

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from threading import Event
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.config import ServeConfig
from detector.formats.pytorch import EagerRuntime
from detector.formats.runtime import Selection
from detector.inference.detector import Detector
from detector.models.base import DetectionModel
from detector.models.postprocess import NmsResult

PATIENCE = 600  # s


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Address(NamedTuple):
    """Where a server listens."""

    port: int

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str | None = None
    ) -> Reply:
        """One request on a connection of its own: POST with a body, else GET."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            reply = connection.getresponse()
            return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())

    def metric(self, name: str) -> float:
        """The value of a line of /metrics."""
        lines = dict(line.rsplit(" ", 1) for line in self.ask("/metrics").content.decode().splitlines())
        return float(lines[name])


@contextmanager
def served(detector: Detector, token: str | None = None, **options: Any) -> Iterator[Address]:
    """The address of a server of this detector, for the time of the block."""
    from detector.serving.serve import running
    from detector.utils.server import listen

    config = ServeConfig(weights="mine.safetensors", **{"timeout": PATIENCE, **options})
    with closing(listen(config.host, 0)) as listener, running(config, detector, listener, token):
        yield Address(listener.getsockname()[1])


class HeldRuntime(EagerRuntime):
    """Runs a model when it is let go; `sizes` are those of the batches that it got."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__(model, torch.device("cpu"))
        self.started, self.go = Event(), Event()
        self.sizes: list[int] = []

    def detect(self, inputs: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[NmsResult]:
        self.sizes.append(len(inputs))
        self.started.set()
        assert self.go.wait(PATIENCE)
        return super().detect(inputs, selection)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes for certain."""
    done = Event()
    for _ in range(PATIENCE * 100):
        if condition():
            return
        done.wait(0.01)
    raise TimeoutError
