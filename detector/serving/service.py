"""The endpoints."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import HTTPException, Query, Request, Response
from jaxtyping import UInt8
from numpy import ndarray
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect
from torch import Tensor

from detector.config import ServeConfig
from detector.images.input_size import InputSize
from detector.images.letterbox import Letterbox
from detector.images.read import image_from_bytes
from detector.inference.detector import Detector, to_tensor
from detector.inference.sinks import image_entries
from detector.serving.answers import Format, Health, ModelInfo, as_answer, draw, format_for, json_response
from detector.serving.batcher import DynamicBatcher
from detector.serving.images import EncodedImage, read_encoded
from detector.serving.metrics import ServerMetrics
from detector.utils.threads import limited_threads

T = TypeVar("T")
RETRY = {"Retry-After": "1"}
"""Header for a client that may ask again, with the seconds after which."""


class Service:
    """The endpoints of one detector. decoders: threads that read and draw images."""

    def __init__(
        self,
        config: ServeConfig,
        batcher: DynamicBatcher,
        decoders: Executor,
        metrics: ServerMetrics,
    ) -> None:
        self.config, self.batcher, self.decoders, self.metrics = config, batcher, decoders, metrics
        self.detector = batcher.detector
        self.in_work = 0
        metrics.in_work.set_function(lambda: self.in_work)
        metrics.waiting_images.set_function(batcher.waiting)

    async def detect(
        self,
        request: Request,
        format: Annotated[
            Format | None, Query(description="Format of the answer; if not given, by the header Accept, else json.")
        ] = None,
        image_id: Annotated[int, Query(ge=0, lt=2**53, description="Id of the image in the format coco.")] = 1,
    ) -> Response:
        kind = format or format_for(request.headers.get("accept", ""))
        with self.admitted():
            read = read_encoded(request, int(self.config.max_mb * 1e6), self.config.allow_urls)
            encoded = await self.in_time(read, 408, "the image was not here")
            work = unless_gone(request, self.answer(encoded, kind, image_id))
            return await self.in_time(work, 503, "there were no detections")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request as in work for the time of the block. Raises HTTPException 429 if too many are."""
        if self.in_work >= self.config.max_queue:
            raise HTTPException(429, f"{self.in_work} requests are in work; ask again later", RETRY)
        self.in_work += 1
        try:
            yield
        finally:
            self.in_work -= 1

    async def in_time(self, work: Awaitable[T], status: int, late: str) -> T:
        """The result of `work`. Raises HTTPException of this status if it takes longer than `config.timeout`."""
        try:
            return await asyncio.wait_for(work, self.config.timeout)
        except asyncio.TimeoutError:
            raise HTTPException(status, f"{late} after {self.config.timeout:g} s", RETRY) from None

    async def answer(self, encoded: EncodedImage, kind: Format, image_id: int) -> Response:
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self.decoders)
        drawn = kind in ("jpeg", "png")
        placed, letterbox, image = await in_thread(self.read, encoded.content, drawn)
        found = await asyncio.wrap_future(self.batcher.submit(placed, letterbox))
        if image is not None:
            return await in_thread(draw, kind, image, found)
        if kind == "coco":
            place = {"file_name": encoded.name}
            return json_response(image_entries(place, found, image_id, self.detector.categories))
        return json_response(asdict(as_answer(found, letterbox.width, letterbox.height)))

    def read(
        self, content: bytes, keep: bool
    ) -> tuple[UInt8[Tensor, "3 _ _"], Letterbox, UInt8[ndarray, "height width 3"] | None]:
        """The network input of the image in these bytes, its place there, and the image itself, if it is to be kept."""
        image = image_from_bytes(content, int(self.config.max_megapixels * 1e6))
        letterbox = self.detector.letterbox(image.shape[1], image.shape[0])
        with limited_threads(self.detector.threads):
            placed = to_tensor(letterbox.apply(image))
        return placed, letterbox, image if keep else None

    async def model(self) -> Response:
        return json_response(asdict(model_info(self.config, self.detector)))

    async def health(self) -> Response:
        return json_response(asdict(Health("ok")))

    async def prometheus(self) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work` on a request whose body is read. Raises ClientDisconnect if the client goes away before."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_client_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def model_info(config: ServeConfig, detector: Detector) -> ModelInfo:
    return ModelInfo(
        weights=Path(config.weights).name,  # where it lies is nobody's business
        classes=list(detector.categories.names),
        category_ids=list(detector.categories.ids),
        image_size=list(InputSize.of(detector.image_size)),
        conf=detector.conf,
        iou=detector.iou,
        max_detections=detector.max_detections,
        max_batch_size=detector.batch,
        device=str(detector.device),
    )
