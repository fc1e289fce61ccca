"""What /metrics tells, in the format of Prometheus."""

import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ServerMetrics:
    """The metrics of one server, in a registry of its own, with memory and CPU time of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("detector_requests", "Answered requests.", ["path", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "detector_request_seconds",
            "Seconds from a request's headers to the end of its answer.",
            ["path"],
            registry=self.registry,
        )
        self.in_work = Gauge(
            "detector_in_work", "Requests that are read, wait or are computed.", registry=self.registry
        )
        self.waiting_images = Gauge(
            "detector_waiting_images", "Images that wait for the network.", registry=self.registry
        )
        self.batch_images = Histogram(
            "detector_batch_images",
            "Images of a batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.network_seconds = Histogram(
            "detector_network_seconds", "Seconds that the network took for a batch.", registry=self.registry
        )

    def on_batch(self, images: int, seconds: float) -> None:
        self.batch_images.observe(images)
        self.network_seconds.observe(seconds)


class Measured:
    """An ASGI application whose answers are counted; all paths that are not known count as one."""

    def __init__(self, app: App, metrics: ServerMetrics, paths: Collection[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500
        start = time.monotonic()

        async def send_and_note(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, status).inc()
            self.metrics.request_seconds.labels(path).observe(time.monotonic() - start)
